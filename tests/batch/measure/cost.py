"""What an item costs the gateway, beside a plain call of a caller in the same run.

    python -m batch.measure.cost [--items 5000] [--at-once 64] [--seconds 0.05] [--rounds 3]

CPU time of the gateway's process, all threads, per item and per call: with trace_capture and usage,
and the database on disk. The worker and the callers have processes of their own; the worker takes
so many `--seconds` for each call. Callers and items are in flight `--at-once`. Each round measures
both; the median of the ratios counts. Queueing the items is measured by itself.
"""

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from batch.measure.callers import Callers, request
from gateway_plugins.batch import Batch
from gateway_plugins.batch.queue.items import NewItem, Owner
from support.workers.slotted_engine import slotted_engine

from gateway import Database
from gateway.config import Config, StorageSettings, Worker
from gateway.testing import NO_PROBES, Live, entry, live

TOKENS = 64


def items_of(count: int, round_: int) -> list[NewItem]:
    body, now = request(TOKENS, stream=False), time.time()
    return [
        NewItem(
            id=f"item-{round_}-{number}",
            kind="other",
            path="/v1/chat/completions",
            model="sim",
            body=body,
            priority=0,
            submitted=now,
            deadline=now + 3600,
        )
        for number in range(count)
    ]


async def run_items(gateway: Live, count: int, round_: int) -> tuple[float, float, float]:
    """Queue and run so many; return items per second, CPU seconds per item, and per submission."""
    engine = gateway.plugin(Batch).engine
    assert engine is not None
    cpu = time.process_time()
    [worker] = gateway.gateway.workers.all
    worker.mark("measure", "held", "items are queued first")
    items = items_of(count, round_)
    for start in range(0, count, 500):
        await engine.submit(Owner(), items[start : start + 500])
    submission = time.process_time() - cpu
    worker.clear("measure")
    began, cpu = time.monotonic(), time.process_time()
    engine.runner.wake()
    await until_completed(gateway)
    seconds = time.monotonic() - began
    return count / seconds, (time.process_time() - cpu) / count, submission / count


async def until_completed(gateway: Live) -> None:
    """Wait until no item is left."""
    while await gateway.gateway.storage.read(_left):  # noqa: ASYNC110  only the rows tell
        await asyncio.sleep(0.05)


def _left(db: Database) -> int:
    [(found,)] = db.select("SELECT sum(queued) + sum(running) FROM batch_lanes")
    return int(found)


async def run_calls(gateway: Live, at_once: int, seconds: float) -> tuple[float, float]:
    """Return calls per second, and CPU seconds per call."""
    cpu = time.process_time()
    callers = Callers(at_once, seconds, 0.0, TOKENS, stream=False)
    told = await callers.call(int(gateway.url.rpartition(":")[2]))
    return told.calls / told.seconds, (time.process_time() - cpu) / told.calls


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plugins", default="trace_capture,usage")
    asked = parser.parse_args()
    sys.setswitchinterval(0.001)  # as gateway.serve.server does
    gc.set_threshold(10_000, 20, 20)
    rates, costs = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        slotted_engine("--places", "10000", "--ttft", str(asked.seconds), "--itl", "0") as url,
    ):
        settings = Config(
            workers=(Worker(url=url, models=("sim",)),),
            plugins=(
                *(entry(name) for name in asked.plugins.split(",") if name),
                entry("batch", max_concurrent=asked.at_once),
            ),
            probes=NO_PROBES,
            storage=StorageSettings(path=str(Path(folder, "gateway.db"))),
        )
        async with live(settings) as gateway:
            await run_items(gateway, asked.items, 0)  # the window grows to its limit
            for round_ in range(asked.rounds):
                rate, each = await run_calls(gateway, asked.at_once, 4.0)
                item_rate, item, submission = await run_items(gateway, asked.items, round_ + 1)
                rates.append(item_rate / rate)
                costs.append(item / each)
                print(  # noqa: T201
                    f"calls {rate:6.0f}/s {each * 1e6:4.0f} us; items {item_rate:6.0f}/s"
                    f" {item * 1e6:4.0f} us (queueing {submission * 1e6:.0f} us);"
                    f" rate {rates[-1]:.2f}, CPU {costs[-1]:.2f}"
                )
    print(f"median: rate {statistics.median(rates):.2f}, CPU {statistics.median(costs):.2f}")  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main())
