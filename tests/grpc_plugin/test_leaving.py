"""Callers that leave, whose time is over, or who do not read: nothing of their calls is left."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support.grpc.asking import Caller, Ended, chat
from support.grpc.raw_http2 import DATA, RawHttp2, message, request_head
from support.grpc.stage import EVENTS, Stage, chunk, delta, staged, whole
from support.plugins.recording_plugin import until

from gateway.testing import ScriptedConnection, sse

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNTS = """
import asyncio, os
from gateway import Sample, hookimpl

class Counts:
    @hookimpl
    def samples(self):
        yield Sample("gateway_left_tasks", "gauge", len(asyncio.all_tasks()), "tasks")
        yield Sample("gateway_left_files", "gauge", len(os.listdir("/proc/self/fd")), "descriptors")
"""

PROMPT = chat("drip").SerializeToString()

LARGE = 256 * 1024


class Drips:
    """Sends a token each hundredth of a second, and keeps its connections."""

    def __init__(self) -> None:
        self.connections: list[ScriptedConnection] = []

    async def __call__(self, connection: ScriptedConnection) -> None:
        self.connections.append(connection)
        await connection.write(EVENTS)
        while True:
            await connection.write(chunk(sse(delta("a"))))
            await asyncio.sleep(0.01)


class Floods:
    """Sends text as fast as it is read; `sent` are the bytes."""

    sent = 0

    async def __call__(self, connection: ScriptedConnection) -> None:
        await connection.write(EVENTS)
        event = chunk(sse(delta("x" * LARGE)))
        while True:
            await connection.write(event)
            self.sent += LARGE


async def hangs(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


DRIPS, FLOODS = Drips(), Floods()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("leaving")
    (folder / "counts.py").write_text(COUNTS)
    async with staged(
        {"drip": DRIPS, "flood": FLOODS, "hang": hangs, "good": whole("a")},
        folder,
        "metrics",
        f"{folder / 'counts.py'}",
        "circuit_breaker: {consecutive_failures: 1}",
        "backpressure: {max_in_flight_per_worker: 100}",
        timeouts__idle="1.0",
        log_level="debug",
    ) as opened:
        yield opened


async def counts(stage: Stage) -> dict[str, float]:
    return {name: await metric(stage, f"gateway_left_{name}") for name in ("tasks", "files")}


async def metric(stage: Stage, name: str) -> float:
    """Return the sum of a metric's values."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{stage.process.url}/metrics")).text
    values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    assert values
    return sum(map(float, values))


async def idle(stage: Stage) -> None:
    """Wait until no call is in flight."""
    async with asyncio.timeout(20):
        while await metric(stage, "gateway_grpc_calls_in_flight"):  # noqa: ASYNC110  by polling
            await asyncio.sleep(0.02)


def cancelled(caller: Caller, tokens: int) -> float:
    """Read some tokens of a stream and cancel it; return when."""
    stream = caller.stream(chat("drip"))
    for _ in range(tokens):
        next(stream)
    stream.cancel()
    return time.monotonic()


async def dropped(stage: Stage) -> float:
    """Begin a stream, and reset its connection after the first message; return when."""
    async with RawHttp2(stage.port) as connection:
        await connection.begin()
        await connection.write(request_head(1) + message(1, PROMPT))
        await connection.until(DATA)
    return time.monotonic()


async def test_worker_sees_the_close_within_50_ms_of_a_cancel(stage: Stage) -> None:
    waits = []
    with Caller(stage.port) as caller:
        for _ in range(3):
            left = await asyncio.to_thread(cancelled, caller, 3)
            await DRIPS.connections[-1].wait_closed()
            waits.append(time.monotonic() - left)
    assert min(waits) < 0.05


async def test_worker_sees_the_close_within_50_ms_of_a_lost_connection(stage: Stage) -> None:
    waits = []
    for _ in range(3):
        left = await dropped(stage)
        await DRIPS.connections[-1].wait_closed()
        waits.append(time.monotonic() - left)
    assert min(waits) < 0.05


async def leave(stage: Stage, rounds: int, at_once: int = 25) -> None:
    """Leave streams `2 * rounds * at_once` times, one half by a cancel, the other by a reset."""
    with Caller(stage.port) as caller:
        for _ in range(rounds):
            ways: list[Any] = [asyncio.to_thread(cancelled, caller, 1) for _ in range(at_once)]
            await asyncio.gather(*ways, *(dropped(stage) for _ in range(at_once)))


async def left_over(stage: Stage, leaving: Callable[[], Any]) -> dict[str, float]:
    """Return how many tasks and descriptors there are more after `leaving`."""
    before = await counts(stage)
    await leaving()
    await idle(stage)
    await until(lambda: not stage.worker.connections_open)
    after = await counts(stage)
    return {name: after[name] - before[name] for name in before}


async def test_fault_18_callers_that_leave_leave_nothing_behind(stage: Stage) -> None:
    await leave(stage, 1)  # threads of the library, and its caches
    begun = len(stage.process.log)
    more = await left_over(stage, lambda: leave(stage, 4))
    assert more["tasks"] <= 1
    assert more["files"] <= 2
    log = stage.process.log[begun:]
    assert b'"grpc_code":"CANCELLED","reason":"CALLER_GONE"' in log
    assert not re.search(rb'"level":"(?:warning|error|critical)"', log)
    assert b"Traceback" not in log
    with Caller(stage.port) as caller:  # and no worker is blamed
        assert (await asyncio.to_thread(caller.ask, chat("good"))).code == "OK"


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_streams_that_are_dropped_leave_nothing_behind(stage: Stage) -> None:
    await leave(stage, 20)
    memory = stage.process.memory()
    more = await left_over(stage, lambda: leave(stage, 200))
    assert more["tasks"] <= 1
    assert more["files"] <= 2
    assert stage.process.memory() - memory < 16 * 1024 * 1024


async def test_deadline_after_the_first_message_is_counted_and_named(stage: Stage) -> None:
    cut = await metric(stage, "gateway_grpc_answers_cut_total")
    with Caller(stage.port) as caller:
        found = await asyncio.to_thread(caller.ask, chat("drip"), (), 0.3)
    assert (found.code, found.text[:1]) == ("DEADLINE_EXCEEDED", "a")
    await idle(stage)
    assert await metric(stage, "gateway_grpc_answers_cut_total") == cut + 1
    await until(lambda: b"a caller waits less than a second" in stage.process.log)
    line = stage.process.log.partition(b"a caller waits less than a second")[2].splitlines()[0]
    assert b'"user_agent":"grpc-python/' in line
    assert DRIPS.connections[-1].closed.is_set()


async def test_deadline_of_0_and_of_a_year(stage: Stage) -> None:
    for timeout in (b"0S", b"0n"):
        async with RawHttp2(stage.port) as connection:
            await connection.begin()
            await connection.write(request_head(1, (b"grpc-timeout", timeout)) + message(1, PROMPT))
            await connection.until(1)
    with Caller(stage.port) as caller:
        year = 365 * 24 * 3600.0
        assert (await asyncio.to_thread(caller.ask, chat("good"), (), year)).code == "OK"
        assert (await asyncio.to_thread(caller.ask, chat("drip"), (), 0)).code == (
            "DEADLINE_EXCEEDED"
        )
    await idle(stage)


async def test_time_in_the_queue_counts(stage: Stage) -> None:
    before = len(stage.worker.requests)
    with Caller(stage.port) as caller, contextlib.ExitStack() as held:
        for _ in range(100):
            held.callback(caller.stream(chat("hang"), timeout=None).cancel)
        await until(lambda: stage.worker.connections_open == 100)
        await until(lambda: len(stage.worker.requests) == before + 100)
        seen = len(stage.worker.requests)
        found: Ended = await asyncio.to_thread(caller.ask, chat("good"), (), 0.2)
        # If calls have just ended, the gateway knows that the wait is longer, and refuses it.
        assert found.code in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
        assert len(stage.worker.requests) == seen
    await idle(stage)
    assert len(stage.worker.requests) == seen


async def test_caller_that_never_reads_holds_the_worker_up_and_is_ended(stage: Stage) -> None:
    before = stage.process.memory()
    async with RawHttp2(stage.port) as connection:
        await connection.begin()
        prompt = chat("flood").SerializeToString()
        await connection.write(request_head(1) + message(1, prompt))
        await until(lambda: FLOODS.sent > 0)
        async with asyncio.timeout(20):
            while stage.worker.connections_open:  # noqa: ASYNC110  until the gateway gives it up
                await asyncio.sleep(0.05)
        await idle(stage)
        assert FLOODS.sent < 32 * 1024 * 1024
        assert stage.process.memory() - before < 32 * 1024 * 1024
        assert b'"grpc_code":"CANCELLED","reason":"CALLER_STALLED"' in stage.process.log
        assert (await counts(stage))["tasks"] < 30
    with Caller(stage.port) as caller:
        assert (await asyncio.to_thread(caller.ask, chat("good"))).code == "OK"
