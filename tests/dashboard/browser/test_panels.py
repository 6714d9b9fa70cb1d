"""What each section shows while calls run, and that names are text wherever they are shown."""

from pathlib import Path

import pytest
from dashboard.browser.conftest import Look
from support.gateways.dashboard_stage import Stage, loaded, token
from support.gateways.watched_pages import EVIL

pytestmark = pytest.mark.asyncio(loop_scope="session")

SECTIONS = {
    "Fleet": ["2 of 2 workers", "TTFT p95", "quick", "slow", EVIL],
    "Load": ["Requests per minute", "in flight"],
    "Runtime and batch": ["Queue by model", EVIL],
    "Evaluations": ["Jobs", EVIL],
    "Usage": ["completion tokens"],
    "Traces": ["agent-1", EVIL],
}
"""Texts of each section; EVIL is the name of a model, a session, a key and a score."""

BLOCKED = """() => {
  const made = document.createElement("div");
  made.innerHTML = '<img src="x" onerror="window.hurt = 1">';
  document.body.append(made);
  return new Promise(done => made.firstChild.addEventListener("error", () => done(window.hurt)));
}"""


async def test_page_shows_every_section_under_load(
    stage: Stage, look: Look, tmp_path: Path
) -> None:
    visit = await look(stage.url)
    await visit.login(token("boss"))
    async with loaded(stage):
        for title, texts in SECTIONS.items():
            await visit.section(title)
            await visit.sees(*texts)
            await visit.picture(tmp_path, title.replace(" ", "-").lower())
    assert await visit.page.locator("img, iframe, object").count() == 0


async def test_fault_13_2_names_are_text_in_a_browser(stage: Stage, look: Look) -> None:
    """The session's own page has the name in its heading, its turns, requests and answers."""
    visit = await look(stage.url)
    await visit.login(token("boss"))
    await visit.section("Traces")
    await visit.page.get_by_role("link", name=EVIL).click()
    for turn in await visit.page.locator("#traces tbody button").all():
        await turn.click()
        await visit.sees("Copy as curl")
    assert await visit.page.get_by_text(EVIL).count() > 2
    assert await visit.page.locator("img").count() == 0
    assert visit.complaints == []
    assert await visit.page.evaluate(BLOCKED) is None, "the policy runs no inline script"
    assert any("Content Security Policy" in one for one in visit.complaints)
    visit.complaints.clear()
