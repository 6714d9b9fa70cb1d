"""A person looks for sessions by what their calls were."""

import pytest
from dashboard.browser.conftest import Look
from playwright.async_api import expect
from support.gateways.dashboard_stage import Stage, token

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
