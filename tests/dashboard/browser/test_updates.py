"""The page keeps up: without server-sent events, as a worker dies, and after a restart."""

import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from dashboard.browser.conftest import Look
from support.gateways.dashboard_stage import QUICK, Stage, gateway, loaded, staged, token

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_page_asks_if_events_are_held_back(stage: Stage, look: Look) -> None:
    visit = await look(stage.url)

    async def held(route: Any) -> None:
        """Neither sent on nor answered."""

    await visit.page.route("**/dashboard/events", held)
    asked: list[str] = []
    visit.page.on("request", lambda one: asked.append(urlsplit(one.url).path))
    await visit.login(token("watcher"))
    await visit.sees("2 of 2 workers")
    assert "/dashboard/parts" in asked


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_worker_that_dies_is_told_while_one_looks(look: Look, tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        visit = await look(stage.url)
        await visit.login(token("boss"))
        await visit.sees("2 of 2 workers")
        async with loaded(stage):
            stage.engines[QUICK].kill(signal.SIGKILL)
            await visit.sees("1 of 2 workers")
            await visit.picture(tmp_path, "worker-died")
        row = visit.page.get_by_role("row").filter(has=visit.page.get_by_text(QUICK, exact=True))
        assert "connect" in (await row.inner_text()).lower(), "the reason is in its row"
        await visit.context.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_page_goes_on_after_a_restart_of_the_gateway(look: Look, tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        visit = await look(stage.url)
        await visit.login(token("boss"))
        stage.process.kill(signal.SIGTERM)
        await visit.sees("does not answer")
        await stage.process.ended()
        async with gateway(stage.config, stage.process.address[1]):
            await visit.up_to_date()
            await visit.sees("2 of 2 workers")
            assert await visit.page.get_by_label("API key").count() == 0, "the login still holds"
        assert [one for one in visit.complaints if "ERR_" not in one] == []
        visit.complaints.clear()
