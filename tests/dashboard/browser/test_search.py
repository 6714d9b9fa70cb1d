"""A person looks for sessions by what their calls were."""

import httpx
import pytest
from dashboard.browser.conftest import Look
from playwright.async_api import expect
from support.gateways.dashboard_stage import Stage, bearer, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_filters_of_sessions_hold_for_all_calls(stage: Stage, look: Look) -> None:
    visit = await look(stage.url)
    await visit.login(token("boss"))
    await visit.section("Traces")
    page = visit.page
    rows = page.locator("#traces tbody tr")
    await expect(rows.first).to_be_visible()
    search = page.get_by_role("search")
    await search.get_by_label("Worker").fill("nobody")
    await search.get_by_role("button", name="Search").click()
    await visit.sees("No session is like this")
    await search.get_by_label("Worker").fill("")
    await search.get_by_label("Model").fill("sim")
    await search.get_by_label("When").select_option("all time")
    await search.get_by_role("button", name="Search").click()
    await expect(rows.first).to_be_visible()


async def test_sessions_beyond_the_first_page_are_shown_on_demand(stage: Stage, look: Look) -> None:
    async with httpx.AsyncClient(base_url=stage.url, headers=bearer("boss")) as client:
        for number in range(102):
            made = await client.post("/sessions", json={"session_id": f"paged-{number:03}"})
            made.raise_for_status()
    visit = await look(stage.url)
    await visit.login(token("boss"))
    await visit.section("Traces")
    page = visit.page
    search = page.get_by_role("search")
    await search.get_by_label("Session").fill("paged-")
    await search.get_by_label("When").select_option("all time")
    await search.get_by_role("button", name="Search").click()
    rows = page.locator("#traces tbody tr")
    await expect(rows).to_have_count(100)
    await expect(rows.first).to_contain_text("paged-101")
    await page.get_by_role("button", name="Show more").click()
    await expect(rows).to_have_count(102)
    await expect(rows.last).to_contain_text("paged-000")
    await expect(page.get_by_role("button", name="Show more")).to_have_count(0)
