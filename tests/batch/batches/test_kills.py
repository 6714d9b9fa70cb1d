"""Fault 4.5: kill -9 in each step of a batch; the next process goes on, each line ends once."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from openai import AsyncOpenAI
from support.batch.batches import answers, created, ids, lines, over
from support.gateways.reloadable import write
from support.gateways.serving_process import PATIENCE, Process, serving

from gateway.simulator import Simulator

STEPS = {
    "validating": "status = 'validating' AND holder IS NOT NULL",
    "loading": "status = 'in_progress' AND loaded > 0 AND reserved > 0",
    "running": "status = 'in_progress' AND completed > 0 AND reserved = 0",
    "finalizing": "status = 'finalizing'",
    "cancelling": "status = 'cancelling'",
}
"""The steps of a batch, as its row tells them."""

OTHERS = [step for step in STEPS if step != "finalizing"]


def seen(database: Path, where: str) -> bool:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return bool(list(db.execute(f"SELECT 1 FROM batches WHERE {where}")))


def client_of(process: Process) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0)


@asynccontextmanager
async def gateway(simulator: Simulator, folder: Path, *more: str) -> AsyncIterator[Process]:
    file = folder / "gateway.yaml"
    batch = ("batch", {"min_pause": 0.01, "max_pause": 0.05})
    write(file, batch, storage={"path": str(folder / "gateway.db")})
    async with serving(simulator.url, "--config", str(file), *more) as process:
        yield process


async def killed_when(process: Process, database: Path, where: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not seen(database, where):  # noqa: ASYNC110
            await asyncio.sleep(0.0005)
    process.kill(signal.SIGKILL)
    await process.ended()


@pytest.mark.parametrize(
    "step", ["finalizing", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)]
)
async def test_fault_4_5_batch_goes_on_after_a_kill_and_ends_each_line_once(
    simulator: Simulator, tmp_path: Path, step: str
) -> None:
    count = 3_000 if step in ("validating", "loading") else 400
    text = lines(count, max_tokens=1)
    async with gateway(simulator, tmp_path) as process, client_of(process) as client:
        batch = await created(client, *text)
        if step == "cancelling":
            await client.batches.cancel(batch.id)
        await killed_when(process, tmp_path / "gateway.db", STEPS[step])
    async with gateway(simulator, tmp_path) as process, client_of(process) as client:
        if step in ("validating", "loading"):
            await client.batches.cancel(batch.id)
        batch = await over(client, batch)
        good = await answers(client, batch.output_file_id)
        bad = await answers(client, batch.error_file_id)
    wanted = [f"id {number}" for number in range(count)]
    assert sorted(ids(good) + ids(bad)) == sorted(wanted)
    assert ids(good) == [one for one in wanted if one in set(ids(good))]
    if step in ("running", "finalizing"):
        assert (batch.status, bad) == ("completed", [])
    else:
        assert batch.status == "cancelled"
    assert batch.request_counts is not None
    assert batch.request_counts.total == count
    assert (batch.request_counts.completed, batch.request_counts.failed) == (len(good), len(bad))
    folder = tmp_path / "gateway.db-files"
    files = {batch.input_file_id, batch.output_file_id, batch.error_file_id} - {None}
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == files
