"""Targets of the stream's part of the kernel: the events of a frame, and whole responses."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from random import Random
from time import monotonic
from typing import Any, NamedTuple, cast

from support.gateways.two_kernels import (
    CHUNKED,
    UNTIL_CLOSE,
    Counting,
    Watching,
    chunked,
    cut_up,
    in_reads,
)
from support.records.step_counts import stream
from support.records.vllm_recordings import OTHER_ENGINES, load

from fuzz.target import Differs
from gateway.calls.observers import Observers
from gateway.config import Config, ServerLimits
from gateway.errors import GatewayError
from gateway.kernel import Kernel, reference
from gateway.kernel.interface import Functions
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.relay import Relay
from gateway.plugins.chains import Chains, Failures
from gateway.testing import make_call
from gateway.upstream.connection import Connection
from gateway.upstream.phase_timer import Alarm
from gateway.upstream.response import ResponseParser
from gateway.wire.injection import INJECTIONS, Injection, Stripper
from gateway.wire.sse import Splitter
from gateway.wire.stripping.fast_strip import Frame

KINDS: Sequence[frozenset[Injection]] = (
    frozenset(INJECTIONS),
    frozenset(("token_ids", "logprobs")),
    frozenset(("logprobs",)),
    frozenset(("usage",)),
    frozenset(),
)
MOST = 6_000
"""Bytes of a stream, so that many can be tried."""

START = 60
"""Bytes by which the frames of an event are found."""


def _streams() -> list[bytes]:
    recorded = [*load().values(), *load(OTHER_ENGINES).values()]
    bodies = [one.body for one in recorded if one.body.startswith(b"data:")]
    return sorted({body for body in bodies if len(body) <= MOST})


class Events:
    """One event after another, or several, of a frame that a recorded stream has."""

    name = "stream-events"

    def __init__(self) -> None:
        self._frames: dict[bytes, list[Frame]] = {}
        events: set[bytes] = set()
        for recorded in _streams():
            for start, frame in _frames_of(recorded):
                self._frames.setdefault(start, []).append(frame)
                events.update(one for one in _raws(recorded) if frame.strip_one(one) is not None)
        self._seeds = sorted(events)

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        given *= random.choice((1, 1, 2, 3))
        frames = self._frames.get(given[:START]) or random.choice([*self._frames.values()])
        frame = random.choice(frames)
        cut = frame.cut(native)
        assert cut is not None
        found = cut.strip(given)
        if found is None:
            return False
        wanted = _stripped(frame, given)
        if found != wanted:
            raise Differs(f"{found!r} is not {wanted!r}")
        return True


def _frames_of(stream: bytes) -> Iterator[tuple[bytes, Frame]]:
    events = Splitter().feed(stream)
    for injected in KINDS[:-1]:
        for drop_empty in (False, True):
            stripper = Stripper(injected, drop_empty=drop_empty)
            for event in events:
                stripper.event(event)
                if isinstance(stripper.frame, Frame):
                    yield event.raw[:START], stripper.frame
                    break


def _raws(stream: bytes) -> list[bytes]:
    return [event.raw for event in Splitter().feed(stream)]


def _stripped(frame: Frame, text: bytes) -> bytes | None:
    """What Python makes of one or more events of the frame."""
    parts = [frame.strip_one(raw) for raw in _raws(text)]
    return None if None in parts or not parts else b"".join(part or b"" for part in parts)


class Strips:
    """The events of a stream, one by one or several at a time: what a stripper sends for each."""

    name = "stream-strips"

    def __init__(self) -> None:
        self._seeds = [*_streams(), *map(stream_of, range(3))]

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        injected, drop_empty = random.choice(KINDS[:-1]), random.random() < 0.5
        one = Stripper(injected, drop_empty=drop_empty)
        other = Stripper(injected, drop_empty=drop_empty)
        events, taken = Splitter().feed(given), 0
        while events:
            count = random.choice((1, 1, 1, 2, 5))
            some, events = events[:count], events[count:]
            strip = one.by(native)
            text = b"".join(event.raw for event in some)
            sent, length = (strip.strip_run(text) if strip is not None else None) or (b"", 0)
            taken += length > 0
            rest = Splitter().feed(b"data: 0\n\n" + text[length:])[1:]
            found = sent + b"".join(map(one.event, rest))
            wanted = b"".join(map(other.event, some))
            if found != wanted:
                raise Differs(f"{found!r} is not {wanted!r}")
        if one.close() != other.close():
            raise Differs("the end is another")
        return taken > 0


def stream_of(count: int) -> bytes:
    """Return a stream of events that are alike, as vLLM sends it."""
    return b"".join(stream(count)[1:])


class Seen(NamedTuple):
    """What came of a response."""

    sent: list[bytes]
    last: bytes
    chunks: list[bytes]
    times: int
    gaps: int
    counted: list[bytes] | None
    bytes_sent: int
    usage: object
    ending: object
    failures: list[str]


class Responses:
    """Whole responses, in any reads, through a connection and a relay."""

    name = "stream-responses"

    def __init__(self) -> None:
        self._seeds = [*_streams(), *map(stream_of, range(3, 20))]
        self._loop = cast(asyncio.AbstractEventLoop, _Loop())
        self._settings = Config()

    def seeds(self) -> Sequence[bytes]:
        return self._seeds

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        reads = list(_reads(given, random))
        injected, drop_empty = random.choice(KINDS), random.random() < 0.5
        counting = Counting(native)
        kernel = Kernel("native", cast(Functions, counting))
        one = self._carried(kernel, reads, injected, drop_empty)
        other = self._carried(Kernel("python", reference), reads, injected, drop_empty)
        if one != other:
            raise Differs(f"{one} is not {other} of {reads}")
        return counting.taken["taken"] > 0

    def _carried(
        self, kernel: Kernel, reads: Sequence[bytes], injected: frozenset[Injection], drop: bool
    ) -> Seen:
        call = make_call(b'{"model":"m","messages":[],"stream":true}')
        exchange = Exchange(call, Chains(Failures(), kernel=kernel))
        exchange.stripper = Stripper(injected, drop_empty=drop) if injected else None
        watching = Watching()
        outcome = call.outcome
        exchange.observe(
            Observers(
                [("watching", watching)],
                _raise,
                outcome,
                call.log_extra,
                counts_tokens=True,
                functions=kernel.functions,
            )
        )
        limits = ServerLimits()
        parser = ResponseParser(limits.max_header_bytes, limits.max_headers)
        connection = Connection(self._loop, parser, lambda _: None, lambda _: None, Alarm())
        transport = _Transport()
        connection.connection_made(transport)
        relay = Relay(exchange, None, connection, self._settings)
        connection.begin(relay, b"", head_only=False, more=False)
        for read in reads:
            if not transport.closing:
                connection.data_received(read)
        connection.connection_lost(None)
        relay.close()
        last = _result(relay.done)
        exchange.reply.count_last(last, 0.0)
        counter = exchange.observers.counter
        counted = counter.kept if counter is not None else None
        exchange.observers.notify_finished(call.body)
        return Seen(
            call.caller.chunks,
            last,
            watching.reads.chunks,
            len(watching.reads.times),
            sum(watching.gaps.histogram.counts),
            list(counted) if counted is not None else None,
            outcome.bytes_sent,
            outcome.usage,
            outcome.ending,
            outcome.failures,
        )


def _reads(stream: bytes, random: Random) -> Iterator[bytes]:
    parts = list(cut_up(random, stream))
    if random.random() < 0.2:
        return iter([UNTIL_CLOSE, *in_reads(random, parts)])
    return iter([CHUNKED, *in_reads(random, chunked(parts))])


def _result(done: asyncio.Future[bytes]) -> bytes:
    try:
        return done.result()
    except GatewayError as error:
        return repr(error).encode()


def _raise(*what: object) -> None:
    raise Differs(repr(what))


class _Loop:
    """A loop that never runs: a relay needs only its clock, its futures and its timers."""

    def time(self) -> float:
        return monotonic()

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(asyncio.AbstractEventLoop, self))

    def call_at(
        self, due: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        loop = cast(asyncio.AbstractEventLoop, self)
        return asyncio.TimerHandle(due, callback, args, loop)

    def call_exception_handler(self, context: object) -> None:
        """An error that nobody asked for is no difference."""

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        """No timer ever fires."""


class _Transport(asyncio.Transport):
    """Sends nothing."""

    closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass
