"""A person logs in, sees what the key permits, and logs out."""

from typing import Any

import httpx
import pytest
from dashboard.browser.conftest import Look
from support.gateways.dashboard_stage import Stage, token
from support.gateways.watched_pages import EVIL

pytestmark = pytest.mark.asyncio(loop_scope="session")

SEEN = {
    "watcher": ["Fleet", "Load", "Runtime and batch", "Evaluations", "Usage", "Training data"],
    "trainer": ["Traces"],
    "caller": [],
}
"""The sections that keys of fewer scopes have."""


async def test_login_and_logout_with_a_wrong_key_before(stage: Stage, look: Look) -> None:
    visit = await look(stage.url)
    page = visit.page
    await visit.go()
    await page.get_by_label("API key").fill("gw-nobody")
    await page.keyboard.press("Enter")
    await page.get_by_role("alert").wait_for()
    visit.complaints.clear()  # of the status 401
    await page.get_by_label("API key").fill(token(EVIL))
    await page.keyboard.press("Enter")
    await visit.up_to_date()
    await page.get_by_text(EVIL, exact=True).first.wait_for()
    assert page.url == f"{stage.url}/dashboard"
    assert await page.evaluate("document.cookie") == "", "no script reads the cookie"
    await page.get_by_role("button", name="Log out").click()
    await page.get_by_label("API key").wait_for()
    assert await visit.context.cookies() == []


@pytest.mark.parametrize(
    "key",
    ["trainer", *(pytest.param(one, marks=pytest.mark.slow) for one in ("watcher", "caller"))],
)
async def test_scopes_decide_what_is_shown(stage: Stage, look: Look, key: str) -> None:
    visit = await look(stage.url)
    await visit.login(token(key))
    links = visit.page.get_by_role("navigation").get_by_role("link")
    assert await links.all_text_contents() == SEEN[key]
    assert await visit.page.get_by_role("button", name="Drain").count() == 0
    if key == "trainer":
        await visit.sees("No session")
        assert await visit.page.get_by_text("agent-1").count() == 0, "another key's session"


async def test_actions_of_other_pages_are_refused(stage: Stage, look: Look) -> None:
    """A page whose token is not the login's says why, and the worker stays as it was."""
    visit = await look(stage.url)
    await visit.login(token("boss"))
    page = visit.page
    await page.route("**/api/admin/**", lambda route: route.continue_(headers=forged(route)))
    await page.get_by_role("button", name="Drain quick").click()
    await page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    alert = page.get_by_role("alert")
    await alert.wait_for()
    assert "load the page again" in await alert.inner_text()
    assert [one for one in visit.complaints if "403" not in one] == []
    visit.complaints.clear()
    async with httpx.AsyncClient(base_url=stage.url) as client:
        headers = {"authorization": f"Bearer {token('boss')}"}
        said = (await client.get("/health/workers", headers=headers)).text
    assert "draining" not in said


def forged(route: Any) -> dict[str, str]:
    return {**route.request.headers, "x-csrf-token": "0" * 64}
