"""What it costs to choose a worker: among few and many of them, for few and many sessions.

    python tests/bench/choosing.py [--rounds 100] [--loops 2000]

A choice is all that the core does for one: the fit workers, the hook, the slot taken and given
back; `hook` is the plugin's part of it. Sessions come in random order, each worker has four
attempts in flight, and what it costs to make the session's id is taken off. All cases take turns
and the least of all rounds counts, as what else the machine does only adds to it; all is CPU time
of this thread. Then: how long a ring takes to make, and what a pinned session takes of memory.
"""

import argparse
import asyncio
import contextlib
import gc
import math
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from gateway_plugins.stickiness.keys import Key
from gateway_plugins.stickiness.pins import Pins
from gateway_plugins.stickiness.ring import Rings

from gateway import Gateway
from gateway.config import Config, Probes, StorageSettings
from gateway.config import Worker as WorkerSettings
from gateway.pipeline.exchange import Exchange
from gateway.testing import RecordedCall, entry, make_call

FEW, MANY = 10, 1_000_000
WORKERS = (1, 16, 256)
IN_FLIGHT = 4
KEYED = ("consistent_hash", "least_loaded")
UNKEYED = ("power_of_two", "round_robin")


Choose = Callable[[RecordedCall], Coroutine[Any, Any, object]]


class Case(msgspec.Struct):
    """The least seconds that one choice, one call of the hook, and neither took."""

    policy: str
    workers: int
    sessions: int
    gateway: Gateway
    choice: float = math.inf
    hook: float = math.inf
    neither: float = math.inf

    def take(self, call: RecordedCall, numbers: list[int]) -> None:
        [hook] = self.gateway.chains.pick_worker
        fit = self.gateway.workers.serving().fit
        proxy = self.gateway.proxy

        async def choose(call: RecordedCall) -> None:
            worker = await proxy._choose(Exchange(call, self.gateway.chains), [])
            assert worker is not None
            worker.end()

        self.neither = min(self.neither, seconds(_nothing, call, numbers, self.sessions))
        self.choice = min(self.choice, seconds(choose, call, numbers, self.sessions))
        run = seconds(lambda call: hook.run(call, fit), call, numbers, self.sessions)
        self.hook = min(self.hook, run)


def seconds(choose: Choose, call: RecordedCall, numbers: list[int], sessions: int) -> float:
    """For one choice, the making of the session's id included."""
    begun = time.thread_time()
    for number in numbers:
        call.session_id = f"agent/{number % sessions}"
        with contextlib.suppress(StopIteration):  # nothing waits
            choose(call).send(None)
    return (time.thread_time() - begun) / len(numbers)


async def _nothing(call: RecordedCall) -> None: ...


async def gateway_of(stack: contextlib.AsyncExitStack, policy: str, workers: int) -> Gateway:
    config = Config(
        workers=tuple(WorkerSettings(url=f"http://gpu-{n}:8000") for n in range(workers)),
        plugins=(entry("stickiness", policy=policy, max_sessions=4 * MANY),),
        probes=Probes(interval=None, models_interval=None),
        storage=StorageSettings(path=":memory:"),
    )
    gateway = await stack.enter_async_context(Gateway(config))
    for worker in gateway.workers.all:
        for _ in range(IN_FLIGHT):
            worker.begin()
    return gateway


async def cases(stack: contextlib.AsyncExitStack) -> list[Case]:
    found = []
    for policy in (*KEYED, *UNKEYED):
        for count in WORKERS:
            gateway = await gateway_of(stack, policy, count)
            if policy == "least_loaded":
                pin(gateway)
            wanted = (FEW, MANY) if policy in KEYED else (FEW,)
            found += [Case(policy, count, sessions, gateway) for sessions in wanted]
    return found


def pin(gateway: Gateway) -> None:
    """All sessions, to the workers in turn."""
    [plugin] = [one.object for one in gateway.plugins.loaded]
    ids = [worker.id for worker in gateway.workers.all]
    for number in range(MANY):
        point = Key("session", f"agent/{number}").point()
        plugin.policy.pins.put(point, ids[number % len(ids)])


def ring_seconds(count: int) -> tuple[float, float]:
    """To make the ring of so many workers, and that with one more."""
    names = [f"gpu-{number}:8000" for number in range(count + 1)]
    shares = tuple(sorted((name, 1.0) for name in names))
    rings = Rings()
    begun = time.thread_time()
    rings.of(shares[1:])
    made = time.thread_time()
    rings.of(shares)
    return made - begun, time.thread_time() - made


def pinned_bytes(count: int) -> float:
    """Of one session, tables half full as they are on average included."""
    points = [random.getrandbits(64) for _ in range(count)]
    gc.collect()
    tracemalloc.start()
    pins = Pins(4 * count, 3600)
    for point in points:
        pins.put(point + 0, "gpu-0:8000")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / len(pins)


def report(found: list[Case]) -> None:
    """Microseconds; behind a choice, how it compares to the first of its policy."""
    firsts: dict[str, float] = {}
    for case in found:
        choice, hook = ((one - case.neither) * 1e6 for one in (case.choice, case.hook))
        ratio = choice / firsts.setdefault(case.policy, choice)
        show(
            f"{case.policy:16} {case.workers:4} workers {case.sessions:9,} sessions: "
            f"choice {choice:5.2f} us ({ratio:4.2f}), hook {hook:5.2f} us"
        )


def show(line: str) -> None:
    sys.stdout.write(line + "\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--loops", type=int, default=2_000)
    options = parser.parse_args()
    random.seed(1)
    async with contextlib.AsyncExitStack() as stack:
        found = await cases(stack)
        call = make_call()
        gc.freeze()
        gc.disable()
        for _ in range(options.rounds):
            numbers = [random.randrange(MANY) for _ in range(options.loops)]
            for case in found:
                case.take(call, numbers)
        report(found)
    whole, more = ring_seconds(256)
    show(f"the ring of 256 workers: {whole * 1e3:.0f} ms; with one more: {more * 1e3:.0f} ms")
    show(f"a pinned session: {pinned_bytes(MANY):.0f} bytes")


if __name__ == "__main__":
    asyncio.run(main())
