"""Instructions that the plugin adds to a call, whatever else the machine does meanwhile.

    python -m runtime.measure.instructions [--calls 300]

valgrind counts those of the whole process, all threads, but not the kernel's, while calls are made
one after another, to a worker in memory. The same time at rest is taken off. Each gateway has a
process of its own.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from runtime.measure.meters import CALLGRIND, Instructions
from support.records.step_counts import STACK, call_of, gateway_of, plain, stream
from support.runtime.boxes import box
from support.workers import slotted_engine
from support.workers.memory_worker import MemoryPool

from gateway import Gateway
from gateway.config import PluginEntry

STACKS = {"core": (), "operator": STACK}
WARM, EVENTS = 50, 64


def plugin(folder: Path) -> PluginEntry:
    command = [sys.executable, slotted_engine.__file__, "--port", "{port}"]
    models = [{"name": name, "command": command} for name in ("sim", "another")]
    return box(folder, *models, runtime={"realtime": "sim"})


async def counted(stack: str, kind: str, side: str, calls: int, folder: Path) -> float:
    """Return thousands of instructions per call."""
    runtime = plugin(folder) if side == "with" else None
    async with gateway_of(STACKS[stack], folder, runtime=runtime) as gateway:
        [worker] = gateway.workers.all
        answer = plain() if kind == "plain" else stream(EVENTS)
        worker.pool = MemoryPool(answer, kept=kind == "plain")
        numbers = count()
        await carry(gateway, numbers, kind, WARM)
        counting, began = Instructions(folder), time.monotonic()
        with counting:
            await carry(gateway, numbers, kind, calls)
        busy, lasted = counting.counted, time.monotonic() - began
        with counting:
            await asyncio.sleep(lasted)
    return (busy - counting.counted) / calls / 1e3


async def carry(gateway: Gateway, numbers: "count[int]", kind: str, calls: int) -> None:
    for _ in range(calls):
        call = call_of(next(numbers), streamed=kind == "stream")
        await gateway.proxy.dispatch(call)
        assert call.caller.status == 200, call.caller.body


def in_valgrind(stack: str, kind: str, side: str, calls: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        module = [sys.executable, "-m", "runtime.measure.instructions", "--calls", str(calls)]
        argv = [*CALLGRIND, f"--callgrind-out-file={folder}/counted", *module]
        argv += ["--of", stack, kind, side, folder]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return float(said.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--of", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.of is not None:
        stack, kind, side, folder = asked.of
        found = asyncio.run(counted(stack, kind, side, asked.calls, Path(folder)))
        print(found)  # noqa: T201
        return
    for stack in STACKS:
        for kind in ("plain", "stream"):
            more, less = (in_valgrind(stack, kind, one, asked.calls) for one in ("with", "without"))
            print(  # noqa: T201
                f"{stack}, {kind}: with {more:.1f} k, without {less:.1f} k,"
                f" ratio {more / less:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
