"""What axe-core finds on each page, light and dark; widths of phones; the keyboard alone."""

from pathlib import Path
from typing import Any

import pytest
from dashboard.browser.conftest import Look
from support.callers.chromium import Visit
from support.gateways.dashboard_stage import Stage, answering, token
from support.gateways.serving_process import started
from support.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

GRAVE = ("serious", "critical")

PHONE = 360
"""Pixels of the width of a small phone."""


async def violations(visit: Visit) -> list[str]:
    """Return what axe-core finds grave: the rule, and the first elements that break it."""
    axe: Any = pytest.importorskip("axe_playwright_python.async_playwright")
    found = await axe.Axe().run(visit.page)
    return [
        f"{one['id']}: {[node['html'][:150] for node in one['nodes'][:4]]} "
        f"{one['nodes'][0].get('failureSummary', '')[:300]}"
        for one in found.response["violations"]
        if one["impact"] in GRAVE
    ]


async def sections(visit: Visit) -> list[str]:
    links = visit.page.get_by_role("navigation").get_by_role("link")
    titles: list[str] = await links.all_text_contents()
    return titles


async def settled(visit: Visit, title: str) -> None:
    """Go to a section, and wait until nothing in sight is being loaded."""
    await visit.section(title)
    await visit.page.get_by_text("Loading").filter(visible=True).first.wait_for(state="hidden")


async def open_a_session(visit: Visit) -> None:
    """Show the tokens of a session, and one of its turns."""
    await visit.section("Traces")
    await visit.page.get_by_role("link", name="agent-1").click()
    await visit.page.locator("#traces tbody button").first.click()
    await visit.sees("Copy as curl")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_grave(
    stage: Stage, look: Look, tmp_path: Path, scheme: str
) -> None:
    visit = await look(stage.url, scheme=scheme)
    await visit.go()
    found = {"login": await violations(visit)}
    await visit.picture(tmp_path, f"{scheme}-login")
    await visit.login(token("boss"))
    for title in await sections(visit):
        await settled(visit, title)
        found[title] = await violations(visit)
        await visit.picture(tmp_path, f"{scheme}-{title.lower().replace(' ', '-')}")
    await open_a_session(visit)
    found["session"] = await violations(visit)
    await visit.picture(tmp_path, f"{scheme}-session")
    await visit.section("Fleet")
    await visit.page.get_by_role("button", name="Drain").first.click()
    found["dialog"] = await violations(visit)
    await visit.picture(tmp_path, f"{scheme}-dialog")
    assert {page: rules for page, rules in found.items() if rules} == {}


@pytest.mark.slow
async def test_no_page_is_wider_than_a_phone(stage: Stage, look: Look, tmp_path: Path) -> None:
    visit = await look(stage.url, width=PHONE)
    await visit.login(token("boss"))
    widths = {}
    for title in await sections(visit):
        await settled(visit, title)
        widths[title] = await visit.page.evaluate("document.documentElement.scrollWidth")
        await visit.picture(tmp_path, f"phone-{title.lower().replace(' ', '-')}")
    await open_a_session(visit)
    widths["session"] = await visit.page.evaluate("document.documentElement.scrollWidth")
    await visit.picture(tmp_path, "phone-session")
    assert {page: width for page, width in widths.items() if width > PHONE} == {}


FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [(one.getAttribute("aria-label") ?? one.textContent).trim(), seen];
}"""


@pytest.mark.slow
async def test_keyboard_alone_reaches_an_action(stage: Stage, look: Look) -> None:
    """In the order of the page: the skip link, the sections, log out, the table, its buttons."""
    visit = await look(stage.url)
    await visit.login(token("boss"))
    keyboard = visit.page.keyboard
    order: list[str] = []
    await visit.page.get_by_role("button", name="Eject slow").wait_for()
    while not order or order[-1] != "Drain quick":
        await keyboard.press("Tab")
        name, seen = await visit.page.evaluate(FOCUSED)
        assert seen, f"the focus on {name!r} cannot be seen"
        order.append(name)
        assert len(order) < 30, order
    titles = await sections(visit)
    assert order[: len(titles) + 2] == ["Skip to the panels", *titles, "Log out"]
    await keyboard.press("Enter")
    dialog = visit.page.get_by_role("dialog")
    await dialog.wait_for()
    assert (await visit.page.evaluate(FOCUSED))[0] == "Cancel", "the harmless answer comes first"
    await keyboard.press("Enter")
    await dialog.wait_for(state="hidden")
    assert (await visit.page.evaluate(FOCUSED))[0] == "Drain quick", "the focus is back"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_box_of_a_gpu_shows_its_runtime_and_a_log_that_pauses(
    look: Look, tmp_path: Path
) -> None:
    port = free_port()
    async with started("demo", "--gpu-box", "--port", str(port), environment={}) as demo:
        demo.address = ("127.0.0.1", port)
        await answering(demo.url)
        visit = await look(demo.url)
        await visit.go()
        await visit.section("Runtime and batch")
        await visit.sees("Runtimes", "Decisions", "Log of the engines", "assistant", "bulk")
        await visit.page.get_by_role("button", name="Pause").first.click()
        await visit.page.get_by_role("button", name="Go on").wait_for()
        assert await violations(visit) == []
        await visit.picture(tmp_path, "gpu-box")
        await visit.context.close()
