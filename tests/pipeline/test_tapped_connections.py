"""Streams on real sockets that a tap carries: what ends, holds back or follows them."""

import asyncio
import contextlib
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest
from support.callers.leaving_caller import leave
from support.callers.raw_client import RawClient, head_of
from support.gateways.two_kernels import CHUNKED, Counting
from support.plugins.recording_plugin import PATIENCE, Watcher, until
from support.steady import steady

from gateway import Call, hookimpl
from gateway.config import ServerLimits, Timeouts
from gateway.kernel import Kernel
from gateway.kernel.interface import Functions
from gateway.testing import DONE, GatewayFor, Live, ScriptedConnection, ScriptedWorker, sse
from gateway.wire.injection import INJECTIONS

pytestmark = pytest.mark.usefixtures("kernel_of_module")

SHORT = 0.15
REQUEST = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
OUTSIDE = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Injecting:
    """Injects everything, so that each event is cut."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject(*INJECTIONS)


def token(place: int, text: str = "x") -> bytes:
    choice = {
        "index": 0,
        "delta": {"content": f"{text} {place}"},
        "logprobs": {"content": [{"token": "x", "logprob": -0.5}]},
        "finish_reason": None,
        "token_ids": [place],
    }
    return sse({**OUTSIDE, "choices": [choice]})


def bare(event: bytes) -> bytes:
    """What the caller gets of a token."""
    data = json.loads(event[6:])
    data["choices"][0] |= {"logprobs": None, "token_ids": None}
    return sse(data)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


END = sse({**OUTSIDE, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + DONE
LAST = chunk(END) + b"0\r\n\r\n"


class Talk:
    """One call whose worker sends what a test says, when the test says so."""

    def __init__(self, live: Live, worker: ScriptedConnection, client: RawClient) -> None:
        self.live = live
        self.worker = worker
        self.client = client
        self.got = b""
        self.taken: Counter[str] = Counter()

    async def ask(self) -> None:
        length = (b"content-length", b"%d" % len(REQUEST))
        await self.client.send(head_of("POST", "/v1/chat/completions", [length]) + REQUEST)

    async def answer(self) -> None:
        await self.worker.read_request()
        await self.worker.write(CHUNKED)

    async def tokens(self, count: int) -> None:
        """Send tokens, each once the caller has the one before."""
        for place in range(count):
            await self.worker.write(chunk(token(place)))
            await self.receive(bare(token(place)))

    async def receive(self, event: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while event not in self.got:
                self.got += await self._chunk()

    async def rest(self) -> bytes:
        """Read to the end. Raises IncompleteReadError where the answer breaks off."""
        async with asyncio.timeout(PATIENCE):
            while piece := await self._chunk():
                self.got += piece
        return self.got

    async def _chunk(self) -> bytes:
        reader = self.client.reader
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]

    async def code(self) -> str:
        """The code of the error that the answer breaks off with."""
        with pytest.raises(asyncio.IncompleteReadError):
            await self.rest()
        error = json.loads(self.got.partition(b"event: error\ndata: ")[2])["error"]
        code: str = error["gateway_code"]
        return code

    def check_taken(self) -> None:
        """Whether the native kernel, if it runs, has carried reads."""
        if self.live.gateway.chains.kernel.name == "native":
            assert self.taken["taken"] >= 3


@contextlib.asynccontextmanager
async def talk(gateway_for: GatewayFor, **settings: Any) -> AsyncIterator[Talk]:
    connected: asyncio.Queue[ScriptedConnection] = asyncio.Queue()

    async def serve(connection: ScriptedConnection) -> None:
        await connected.put(connection)
        await connection.wait_closed()

    async with ScriptedWorker(serve) as worker:
        settings = {"stream_errors": "event", **settings}
        live = await gateway_for(Injecting, Watcher, workers=(worker.url,), **settings)
        async with RawClient(*live.server.address) as client:
            one = Talk(live, cast(ScriptedConnection, None), client)
            one.taken = _count(live)
            await one.ask()
            one.worker = await connected.get()
            await one.answer()
            assert (await client.head()).status == 200
            yield one


def _count(live: Live) -> Counter[str]:
    """Count what the taps of calls to come take."""
    proxy = live.gateway.proxy
    kernel = proxy.chains.kernel
    counting = Counting(kernel.functions)
    counted = Kernel(kernel.name, cast(Functions, counting), fallbacks=kernel.fallbacks)
    proxy.adopt(msgspec.structs.replace(proxy.chains, kernel=counted), live.gateway.config)
    return counting.taken


async def test_tapped_stream_ends_whole_and_its_connections_carry_another(
    gateway_for: GatewayFor,
) -> None:
    async with talk(gateway_for) as one:
        for _ in range(2):
            await one.tokens(6)
            await one.worker.write(LAST)
            whole = await one.rest()
            assert whole == b"".join(bare(token(place)) for place in range(6)) + END
            one.check_taken()
            one.got = b""
            await one.ask()
            await one.answer()
            assert (await one.client.head()).status == 200
        assert [attempt.reused for attempt in one.live.plugin(Watcher).attempts] == [False, True]


@steady
async def test_idle_timeout_ends_a_tapped_stream(gateway_for: GatewayFor) -> None:
    async with talk(gateway_for, timeouts=Timeouts(idle=SHORT)) as one:
        await one.tokens(6)
        one.check_taken()
        assert await one.code() == "upstream_idle_timeout"
        await one.worker.wait_closed()


@steady
async def test_taken_reads_are_signs_of_life(gateway_for: GatewayFor) -> None:
    """The stream lasts several times as long as a pause may."""
    async with talk(gateway_for, timeouts=Timeouts(idle=SHORT * 4)) as one:
        for place in range(20):
            await one.worker.write(chunk(token(place)))
            await one.receive(bare(token(place)))
            await asyncio.sleep(SHORT)
        one.check_taken()
        await one.worker.write(LAST)
        assert (await one.rest()).endswith(END)


@steady
async def test_pool_hears_of_its_worker_by_taken_reads(gateway_for: GatewayFor) -> None:
    async with talk(gateway_for) as one:
        await one.tokens(5)
        [worker] = one.live.gateway.workers.all
        await asyncio.sleep(SHORT)  # far longer than the loop's clock may be behind
        began = asyncio.get_running_loop().time()
        assert worker.pool.heard_at() < began - SHORT / 2
        await one.worker.write(chunk(token(5)))
        await one.receive(bare(token(5)))
        one.check_taken()
        assert began - SHORT / 2 < worker.pool.heard_at() < began + PATIENCE


@steady
async def test_total_timeout_ends_a_tapped_stream(gateway_for: GatewayFor) -> None:
    async with talk(gateway_for, timeouts=Timeouts(total=1.0)) as one:
        await one.tokens(6)
        one.check_taken()
        assert await one.code() == "upstream_total_timeout"
        await one.worker.wait_closed()


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_worker_that_hangs_up_breaks_a_tapped_stream(
    gateway_for: GatewayFor, reset: bool
) -> None:
    async with talk(gateway_for) as one:
        await one.tokens(6)
        one.check_taken()
        one.worker.reset() if reset else one.worker.close()
        assert await one.code() == "upstream_closed"
        outcome = await one.live.plugin(Watcher).outcome()
        assert not outcome.complete
        assert outcome.bytes_sent == len(one.got)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_caller_that_leaves_ends_a_tapped_stream(
    gateway_for: GatewayFor, reset: bool
) -> None:
    async with talk(gateway_for) as one:
        await one.tokens(6)
        one.check_taken()
        leave(one.client, reset=reset)
        async with asyncio.timeout(PATIENCE):
            await one.worker.wait_closed()
        outcome = await one.live.plugin(Watcher).outcome()
        assert outcome.caller_gone
        assert outcome.bytes_sent == len(one.got)


async def test_caller_that_leaves_after_the_last_finish_reason_had_it_all(
    gateway_for: GatewayFor,
) -> None:
    """The worker's last event may still come, and nothing of it is lost to observers."""
    async with talk(gateway_for) as one:
        await one.tokens(6)
        one.check_taken()
        finish, _, done = END.partition(b"\n\n")
        await one.worker.write(chunk(finish + b"\n\n"))
        leave(one.client, reset=False)
        await one.worker.write(chunk(done) + b"0\r\n\r\n")
        outcome = await one.live.plugin(Watcher).outcome()
        assert outcome.ending.finished


async def test_drain_ends_a_tapped_stream(gateway_for: GatewayFor) -> None:
    async with talk(gateway_for) as one:
        await one.tokens(6)
        one.check_taken()
        draining = asyncio.create_task(one.live.gateway.drain(0))
        assert await one.code() == "drain_timeout"
        await draining


async def test_slow_caller_holds_a_tapped_stream_back(gateway_for: GatewayFor) -> None:
    """Nothing is lost, and the stream goes on once the caller reads."""
    count, text = 400, "x" * 50_000
    async with talk(gateway_for) as one:
        await one.tokens(4)
        written = 0

        async def flood() -> None:
            nonlocal written
            for place in range(count):
                await one.worker.write(chunk(token(place, text)))
                written += 1
            await one.worker.write(LAST)

        one.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        flooding = asyncio.create_task(flood())
        await until(lambda: written > 4)
        before = -1
        while before != written:  # until the buffers of all sockets are full
            before = written
            await asyncio.sleep(SHORT)
        assert written < count
        one.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        whole = await one.rest()
        await flooding
        assert whole.count(text.encode()) == count
        assert whole.endswith(END)
        one.check_taken()


@steady
async def test_caller_that_reads_no_more_is_stalled(gateway_for: GatewayFor) -> None:
    async with talk(gateway_for, timeouts=Timeouts(idle=SHORT * 4)) as one:
        await one.tokens(4)
        one.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError):
            while True:
                await one.worker.write(chunk(token(5, "x" * 50_000)))
        outcome = await one.live.plugin(Watcher).outcome()
        assert outcome.caller_gone
        one.check_taken()


async def test_event_without_an_end_is_bounded_behind_a_tap(gateway_for: GatewayFor) -> None:
    limits = ServerLimits(max_event_bytes=64 * 1024)
    async with talk(gateway_for, server_limits=limits) as one:
        await one.tokens(6)
        one.check_taken()
        endless = b"data: " + b"x" * 100_000
        await one.worker.write(chunk(endless))
        await one.receive(endless)
        await one.worker.write(LAST)
        assert (await one.rest()).endswith(endless + END)
        outcome = await one.live.plugin(Watcher).outcome()
        assert outcome.failures == ["core: an event was larger than server_limits.max_event_bytes"]


async def test_taps_and_their_calls_are_freed_without_the_collector(
    gateway_for: GatewayFor,
) -> None:
    async with talk(gateway_for) as one:
        gc.collect()
        gc.disable()
        try:
            before = alive_now()
            await one.tokens(6)
            one.check_taken()
            await one.worker.write(LAST)
            await one.rest()
            await until(lambda: not one.live.gateway.calls_in_flight)
            assert alive_now() - before == Counter()
        finally:
            gc.enable()


def alive_now() -> Counter[str]:
    """How many taps there are, and what belongs to a call that has one."""
    kinds = ("Tap", "Tapping", "Relay", "Cut", "CountingTap")
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one).__name__ in kinds)
