"""What an operator does to a worker, each after a confirmation."""

import pytest
from dashboard.browser.conftest import Look
from support.gateways.dashboard_stage import QUICK, Stage, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_operator_drains_a_worker_after_a_confirmation(stage: Stage, look: Look) -> None:
    visit = await look(stage.url)
    await visit.login(token("boss"))
    page = visit.page
    drain = page.get_by_role("button", name=f"Drain {QUICK}", exact=True)
    await drain.click()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")
    await drain.click()
    await page.get_by_role("button", name="Cancel").click()
    await visit.sees("2 of 2 workers")
    await drain.click()
    await page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    await visit.sees("1 of 2 workers", "draining")
    await page.get_by_role("button", name=f"Undrain {QUICK}").click()
    await page.get_by_role("dialog").get_by_role("button", name="Undrain").click()
    await visit.sees("2 of 2 workers")
    await drain.wait_for()
