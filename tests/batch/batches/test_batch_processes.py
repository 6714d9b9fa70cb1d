"""Batches in a gateway of several processes: any of them works on a batch, and ends its calls."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from support.batch.batches import answers, created, ids, lines, over
from support.gateways.serving_process import Process
from support.gateways.serving_processes import several, who_answers
from support.plugins.recording_plugin import until
from support.workers.failing_on_demand import Moody

from gateway.simulator import Simulator

BATCH = ("batch", {"min_pause": 0.01, "max_pause": 0.05, "max_concurrent": 64})


def client_of(process: Process) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=5)


def settings(url: str) -> dict[str, Any]:
    return {"workers": [{"url": url}]}


async def test_cancel_in_one_process_ends_the_calls_of_all(tmp_path: Path) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        file = tmp_path / "gateway.yaml"
        async with (
            several(file, 2, BATCH, **settings(worker.url)) as process,
            client_of(process) as client,
        ):
            batch = await created(client, *lines(60))
            await until(lambda: worker.held >= 8)
            batch = await client.batches.cancel(batch.id)
            await until(lambda: all(one.closed.is_set() for one in worker.connections))
            batch = await over(client, batch)
            bad = await answers(client, batch.error_file_id)
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert ids(bad) == [f"id {number}" for number in range(60)]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_fault_4_5_kills_of_processes_end_each_line_once(
    simulator: Simulator, tmp_path: Path
) -> None:
    """Every second one of three processes is killed, and started again by their parent."""
    file, count = tmp_path / "gateway.yaml", 6_000
    killed: set[int] = set()
    async with (
        several(file, 3, BATCH, **settings(simulator.url)) as process,
        client_of(process) as client,
    ):
        batch = await created(client, *lines(count, max_tokens=1))
        over_ = asyncio.create_task(over(client, batch, patience=250))
        while not over_.done():
            await asyncio.wait([over_], timeout=1)
            if not over_.done():
                killed.add(await kill_one(process))
        batch = await over_
        good = await answers(client, batch.output_file_id)
    assert len(killed) > 3
    assert batch.status == "completed"
    assert ids(good) == [f"id {number}" for number in range(count)]
    assert batch.usage is not None
    assert batch.usage.output_tokens == count


async def kill_one(process: Process) -> int:
    """Kill the process that answers; return its pid."""
    async with process.client() as client:
        _, pid = await who_answers(client)
    os.kill(pid, signal.SIGKILL)
    return pid
