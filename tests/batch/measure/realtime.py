"""How much later first tokens of realtime streams come while batch items run at full load.

    python -m batch.measure.realtime [--limit 32] [--places 32] [--processes 1] [--rounds 2]

`gateway serve` with trace_capture and usage, the database on disk, before an engine that runs
`--places` sequences at a time. Realtime callers stream; in each round they are measured while the
queue is empty, and then while it is full, after `--warm` seconds in which the gateway may learn. If
`--limit` is given, backpressure limits the worker's calls to it. Tells the quantiles of the times
to the first event in milliseconds, and how many of the places that realtime calls left were used.
"""

import argparse
import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
import uvloop
from batch.measure.callers import Callers, Told, request
from gateway_plugins.batch.queue.items import NewItem, Owner
from support.gateways.serving_process import serving
from support.records.queued_items import engine_of
from support.workers.slotted_engine import slotted_engine

from gateway import Database
from gateway.config import Config, StorageSettings
from gateway.testing import NO_PROBES, Live, entry, live

CONFIG = """
plugins:
  - trace_capture
  - usage
  - metrics
  {limit}
  - batch: {{{batch}}}
processes: {processes}
"""

TTFT, ITL = 0.05, 0.02
ITEM, CALL = 64, 16
"""Tokens of an item, and of a realtime call."""


class Phase(msgspec.Struct):
    """Times to first events in seconds, and the items that were completed in a second.

    `waited` is the share of the calls that found the engine full, `queued` counts the calls that
    waited in backpressure's queue, items included. `in_flight` is the mean of realtime calls.
    """

    ttft: list[float]
    waited: float
    queued: int
    items: float
    in_flight: float


def items_of(count: int, seconds: float) -> list[NewItem]:
    body, now = request(ITEM, stream=False), time.time()
    return [
        NewItem(
            id=f"item-{now}-{number}",
            kind="other",
            path="/v1/chat/completions",
            model="sim",
            body=body,
            priority=0,
            submitted=now,
            deadline=now + seconds,
        )
        for number in range(count)
    ]


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def phase(filler: Live, port: int, asked: argparse.Namespace) -> Phase:
    before, queued = await completed(filler), await waits(port)
    callers = Callers(asked.callers, asked.seconds, asked.pause, CALL, stream=True)
    told: Told = await callers.call(port)
    items = (await completed(filler) - before) / told.seconds
    mean = told.calls / told.seconds * (TTFT + ITL * (CALL - 1))
    waited = sum(seconds > 0.005 for seconds in told.waited) / told.calls
    return Phase(told.ttft, waited, await waits(port) - queued, items, mean)


async def waits(port: int) -> int:
    """Return how many calls have waited in the gateway's queue."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    found = re.search(r"^gateway_queue_waited_total ([0-9.]+)", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def completed(filler: Live) -> int:
    def count(db: Database) -> int:
        [(found,)] = db.select("SELECT count(*) FROM batch_items WHERE state = 2")
        return int(found)

    return await filler.gateway.storage.read(count)


async def expired(filler: Live) -> None:
    def left(db: Database) -> int:
        [(found,)] = db.select("SELECT sum(queued) + sum(running) FROM batch_lanes")
        return int(found or 0)

    while await filler.gateway.storage.read(left):  # noqa: ASYNC110  another process runs them
        await asyncio.sleep(0.1)


async def one_round(filler: Live, port: int, asked: argparse.Namespace) -> tuple[Phase, Phase]:
    idle = await phase(filler, port, asked)
    seconds = asked.warm + asked.seconds + 1
    count = int(seconds * 2 * asked.places / (TTFT + ITL * (ITEM - 1)))
    items = items_of(count, seconds)
    for start in range(0, count, 500):
        await engine_of(filler).submit(Owner(), items[start : start + 500])
    await asyncio.sleep(asked.warm)
    busy = await phase(filler, port, asked)
    await expired(filler)
    return idle, busy


def told(idle: Phase, busy: Phase, asked: argparse.Namespace) -> str:
    p50 = quantile(idle.ttft, 0.5) * 1e3, quantile(busy.ttft, 0.5) * 1e3
    p99 = quantile(idle.ttft, 0.99) * 1e3, quantile(busy.ttft, 0.99) * 1e3
    free = min(asked.places, asked.limit or asked.places) - busy.in_flight
    used = busy.items * (TTFT + ITL * (ITEM - 1)) / free
    return (
        f"calls {len(busy.ttft)}; p50 {p50[0]:.1f} -> {p50[1]:.1f} ms;"
        f" p99 {p99[0]:.1f} -> {p99[1]:.1f} ms ({p99[1] / p99[0]:.2f});"
        f" waited in the engine {idle.waited:.1%} -> {busy.waited:.1%},"
        f" in the gateway {idle.queued} -> {busy.queued};"
        f" items {busy.items:.1f}/s, {used:.0%} of what realtime leaves"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--places", type=int, default=32)
    add("--limit", type=int, default=None, help="max_in_flight_per_worker of backpressure")
    add("--processes", type=int, default=1)
    add("--callers", type=int, default=16)
    add("--pause", type=float, default=0.5)
    add("--seconds", type=float, default=15.0)
    add("--warm", type=float, default=10.0)
    add("--rounds", type=int, default=2)
    add("--metrics", action="store_true", help="the engine tells how many calls wait in it")
    add("--batch", default="", help="options of the plugin, such as max_concurrent: 128")
    asked = parser.parse_args()
    places = ["--places", str(asked.places), "--ttft", str(TTFT), "--itl", str(ITL)]
    places += ["--metrics"] if asked.metrics else []
    limit = f"- backpressure: {{max_in_flight_per_worker: {asked.limit}}}" if asked.limit else ""
    ratios = []
    with tempfile.TemporaryDirectory() as folder, slotted_engine(*places) as url:
        file, path = f"{folder}/gateway.yaml", f"{folder}/gateway.db"
        text = CONFIG.format(limit=limit, batch=asked.batch, processes=asked.processes)
        Path(file).write_text(text, "utf-8")  # noqa: ASYNC240  before anything runs
        filling = Config(plugins=(entry("batch"),), storage=StorageSettings(path=path))
        settings = {"storage__path": path}
        async with (
            serving(url, "--config", file, **settings) as process,
            live(msgspec.structs.replace(filling, probes=NO_PROBES)) as filler,
        ):
            for _ in range(asked.rounds):
                idle, busy = await one_round(filler, process.address[1], asked)
                ratios.append(quantile(busy.ttft, 0.99) / quantile(idle.ttft, 0.99))
                print(told(idle, busy, asked), flush=True)  # noqa: T201
    print(f"p99 ratio, median of rounds: {statistics.median(ratios):.2f}")  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main())
