"""A person who has never seen the product: the commands and the clicks of docs/dashboard.md."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from dashboard.browser.conftest import Look
from support.gateways.dashboard_stage import answering, engine
from support.gateways.serving_process import Process, started
from support.manual import Manual, shell
from support.paths import DOCS
from support.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANUAL = Manual(DOCS / "dashboard.md")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def demo(browser: object) -> AsyncIterator[Process]:
    port = free_port()
    async with started("demo", "--port", str(port), environment={}) as process:
        process.address = ("127.0.0.1", port)
        await answering(process.url)
        yield process


async def run(part: str, demo: Process, folder: Path, slow: str = "") -> None:
    """Run the commands of a block against the demo."""
    block = MANUAL.block("sh", part, demo.url).replace("http://127.0.0.1:8001", slow)
    await asyncio.to_thread(shell, block, folder)


async def test_person_finds_the_call_and_why_a_session_is_incomplete(
    demo: Process, look: Look, tmp_path: Path
) -> None:
    visit = await look(demo.url)
    await visit.go()
    await visit.section("Traces")
    await visit.sees("A call is kept here if")
    await visit.picture(tmp_path, "empty-traces")
    await run("sessions/hurried", demo, tmp_path)
    await visit.go()
    await visit.section("Traces")
    await visit.page.get_by_role("link", name="my-agent").click()
    await visit.page.get_by_role("cell", name="COMPLETE").first.wait_for()
    await visit.page.locator("#traces tbody button").click()
    await visit.sees("Request", "Answer", "queue", "Copy as curl")
    assert await visit.page.locator(".sight .sampled").count() > 0
    await visit.section("Traces")
    await visit.page.get_by_role("link", name="hurried").click()
    await visit.sees("The caller left before all was sampled.")
    assert "no finish reason" not in await visit.page.locator("#traces").inner_text()
    await visit.picture(tmp_path, "incomplete")


@pytest.mark.slow
async def test_person_finds_the_slow_worker_and_ejects_it(
    demo: Process, look: Look, tmp_path: Path
) -> None:
    arguments = MANUAL.arguments("simulate --port 8001", "")
    async with engine(*arguments[arguments.index("8001") + 1 :]) as slow:
        await answering(slow.url)
        await run("admin/workers", demo, tmp_path, slow.url)
        visit = await look(demo.url)
        await visit.go()
        await visit.section("Fleet")
        heads = visit.page.get_by_role("columnheader")
        place = (await heads.all_text_contents()).index("TTFT p50")
        found = {}
        for name in ("simulator", "slow"):
            head = visit.page.get_by_role("rowheader", name=name, exact=True)
            row = visit.page.get_by_role("row").filter(has=head)
            found[name] = await row.locator("th, td").nth(place).inner_text()
        await visit.picture(tmp_path, "slow-worker")
        await visit.page.get_by_role("button", name="Eject slow").click()
        await visit.page.get_by_role("dialog").get_by_role("button", name="Eject").click()
        await visit.sees("1 of 1 workers")
    assert found["simulator"].endswith(" ms")
    assert found["slow"].endswith(" s")
