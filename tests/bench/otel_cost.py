"""What spans cost a call: nothing sampled, one in ten, each.

    python tests/bench/otel_cost.py [--rounds 20]

CPU time of the whole process, the exporter's thread included, for a plain call to a worker in
memory: no sockets but the one to the collector, which is a process of its own. In each round all
gateways have their turn, in another order each time, and each is compared with the one without the
plugin in the same round; the median of all rounds counts. A second gateway without the plugin says
what the measurement is worth.
"""

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import uvloop
from support.otel.collector import collecting
from support.workers.memory_worker import MemoryPool

from bench.a_call import PLAIN
from gateway import Gateway
from gateway.config import Config, PluginEntry, Probes, Worker
from gateway.testing import RecordedCall, entry, make_call

CALLS, AT_ONCE = 2_048, 32
PATIENCE = 1.4
"""Seconds in which all spans are sent: a little more than they wait for others at most."""

RATIOS = (0.0, 0.1, 1.0)
OTEL = "gateway_plugins.otel:Otel"
BODY = b'{"model": "sim", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}'
HEADERS = {
    "host": "127.0.0.1:9090",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "content-type": "application/json",
    "content-length": str(len(BODY)),
    "authorization": "Bearer key",
    "user-agent": "bench",
}


def serve(url: "multiprocessing.Queue[str]") -> None:
    with collecting() as collector:
        url.put(collector.url)
        while True:
            time.sleep(1)
            collector.requests.clear()
            collector.headers.clear()


@contextmanager
def collector_process() -> Iterator[str]:
    spawning = multiprocessing.get_context("spawn")
    url = spawning.Queue()
    process = spawning.Process(target=serve, args=(url,), daemon=True)
    process.start()
    try:
        yield url.get(timeout=30)
    finally:
        process.terminate()


def settings(plugins: Sequence[PluginEntry]) -> Config:
    return Config(
        workers=(Worker(url="http://127.0.0.1:1", models=("sim",)),),
        plugins=tuple(plugins),
        probes=Probes(interval=None, models_interval=None),
    )


async def carry(gateway: Gateway) -> float:
    """Seconds of CPU for each call, and for its spans until all are sent."""
    calls = iter([make_call(BODY, headers=HEADERS) for _ in range(CALLS)])

    async def caller() -> None:
        for call in calls:
            await dispatch(gateway, call)

    [worker] = gateway.workers.all
    worker.pool = MemoryPool(PLAIN, kept=True)
    gc.collect()
    began = time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    if gateway.hooks("trace_ratio"):
        await asyncio.sleep(PATIENCE)
    return (time.process_time() - began) / CALLS


async def dispatch(gateway: Gateway, call: RecordedCall) -> None:
    await gateway.proxy.dispatch(call)
    assert call.caller.status == 200, call.caller.body


async def measured(rounds: int, url: str) -> dict[str, list[float]]:
    """Return the seconds of a call in each round, by the way the gateway is set."""
    ways = {"without": (), "control": (), **{f"{ratio:.0%}": (ratio,) for ratio in RATIOS}}
    took: dict[str, list[float]] = {name: [] for name in ways}
    async with AsyncExitStack() as stack:
        gateways = []
        for name, ratios in ways.items():
            plugins = [entry(OTEL, endpoint=url, ratio=one, max_waiting=50_000) for one in ratios]
            made = await stack.enter_async_context(Gateway(settings(plugins)))
            gateways.append((name, made))
            await carry(made)  # the first calls fill caches
        for number in range(rounds):
            first = number % len(gateways)
            for name, gateway in gateways[first:] + gateways[:first]:
                took[name].append(await carry(gateway))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    sys.setswitchinterval(0.001)  # as gateway.serve.server does
    gc.set_threshold(10_000, 20, 20)
    with collector_process() as url:
        took = uvloop.run(measured(rounds, url))
    without = took.pop("without")
    sys.stdout.write(f"a call without the plugin: {statistics.median(without) * 1e6:.1f} us\n")
    for name, seconds in took.items():
        more = statistics.median(a - b for a, b in zip(seconds, without, strict=True))
        what = "without it, again" if name == "control" else f"{name} of the calls sampled"
        sys.stdout.write(f"{what}: {more * 1e6:+.1f} us\n")


if __name__ == "__main__":
    main()
