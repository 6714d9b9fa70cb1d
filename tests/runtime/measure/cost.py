"""What the plugin costs a realtime call, beside a gateway without it in the same run.

    python -m runtime.measure.cost [--callers 32] [--seconds 4] [--rounds 6]

CPU time of the gateways' process, all threads, per plain call whose model is hot. The engine and
the callers have processes of their own. Rounds with and without the plugin take turns; the median
of their ratios counts.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time

import uvloop
from batch.measure.callers import Callers
from gateway_plugins.runtime import Runtime
from support.manual import free_port
from support.workers import slotted_engine

from gateway.config import Config, PluginEntry, Worker
from gateway.testing import NO_PROBES, Live, entry, live

TOKENS = 16


def plugin(port: int, logs: str) -> PluginEntry:
    engine = [sys.executable, slotted_engine.__file__, "--places", "10000", "--ttft", "0.01"]
    model = {"name": "sim", "command": [*engine, "--itl", "0", "--port", "{port}"]}
    return entry(
        Runtime,
        models=[model],
        runtimes=[{"name": "gpu", "port": port, "realtime": "sim"}],
        logs=logs,
    )


async def cost(gateway: Live, callers: int, seconds: float) -> float:
    """Return CPU seconds per call."""
    cpu = time.process_time()
    told = await Callers(callers, seconds, 0.0, TOKENS, stream=False).call(
        int(gateway.url.rpartition(":")[2])
    )
    return (time.process_time() - cpu) / told.calls


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    sys.setswitchinterval(0.001)  # as gateway.serve.server does
    gc.set_threshold(10_000, 20, 20)
    port, ratios = free_port(), []
    with tempfile.TemporaryDirectory() as logs:
        with_it = Config(plugins=(plugin(port, logs),), probes=NO_PROBES)
        url = f"http://127.0.0.1:{port}"
        without = Config(workers=(Worker(url=url, models=("sim",)),), probes=NO_PROBES)
        async with live(with_it) as first, live(without) as second:
            for gateway in (first, second):
                await cost(gateway, asked.callers, 2.0)
            for _ in range(asked.rounds):
                more = await cost(first, asked.callers, asked.seconds)
                less = await cost(second, asked.callers, asked.seconds)
                ratios.append(more / less)
                print(f"with {more * 1e6:5.1f} us, without {less * 1e6:5.1f} us: {ratios[-1]:.3f}")  # noqa: T201
    print(f"median: {statistics.median(ratios):.3f}")  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main())
