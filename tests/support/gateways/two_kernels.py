"""One response carried through a Proxy by each kernel: what everybody saw of it."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, cast

import msgspec
from support.workers.memory_worker import MemoryPool

from gateway import Call, Ending, Gaps, Gathered, Headers, Outcome, Usage
from gateway.config import Config, Worker
from gateway.fleet.registry import Workers
from gateway.kernel import Kernel, reference
from gateway.kernel.interface import Cut, Functions, Settled, Strip, Tap
from gateway.pipeline.proxy import Proxy
from gateway.plugins.chains import Chains, Failures, Hook
from gateway.storage import Storage
from gateway.testing import RecordingCaller, make_call
from gateway.wire.injection import Injection

BOUNDS = (0.001, 0.01, 0.1, 1.0, 100.0)
ROOM = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSE = HEAD + b"connection: close\r\n\r\n"


class Watching:
    """An observer with both collectors."""

    def __init__(self, room: int = ROOM) -> None:
        self.reads = Gathered(room)
        self.gaps = Gaps(BOUNDS)
        self.collectors = (self.reads, self.gaps)
        self.outcome: Outcome | None = None

    def started(self, status: int, headers: Headers) -> None:
        self.reads.clear()

    def finished(self, outcome: Outcome) -> None:
        self.outcome = outcome


class Seeing(Watching):
    """An observer that also wants to see each chunk itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def data(self, chunk: bytes) -> None:
        self.seen.append(chunk)


class Seen(msgspec.Struct):
    """What the caller got, and what observers and the outcome say of it."""

    sent: list[bytes]
    whole: bool
    chunks: list[bytes]
    times: int
    room: int
    full: bool
    gaps: int
    bytes_sent: int
    usage: Usage | None
    result: str
    ending: Ending
    failures: list[str]
    seen: list[bytes]


async def carried(
    kernel: Kernel,
    pieces: Sequence[bytes],
    injected: frozenset[Injection],
    observer: Watching | None = None,
    body: bytes = b'{"model":"m","messages":[],"stream":true}',
) -> Seen:
    """Carry a response that comes in `pieces`, each of them a read."""
    watching = observer or Watching()

    def observe(call: Call) -> Watching:
        call.count_tokens()
        return watching

    async def prepare(call: Call) -> None:
        await call.inject(*injected)

    chains = Chains(
        Failures(),
        prepare=(Hook("injecting", prepare),),
        observe=(Hook("watching", observe),),
        kernel=kernel,
    )
    settings = Config(workers=(Worker(url="http://127.0.0.1:1"),))
    workers = Workers(settings)
    [worker] = workers.all
    worker.pool = MemoryPool(pieces)
    call = make_call(body)
    await Proxy(chains, workers, settings, Storage(settings, ())).dispatch(call)
    return _seen(call.caller, call.outcome, watching)


def _seen(caller: RecordingCaller, outcome: Outcome, watching: Watching) -> Seen:
    assert watching.outcome is outcome
    return Seen(
        sent=caller.chunks,
        whole=caller.is_ended and not caller.is_cut,
        chunks=watching.reads.chunks,
        times=len(watching.reads.times),
        room=watching.reads.room,
        full=watching.reads.closed,
        gaps=sum(watching.gaps.histogram.counts),
        bytes_sent=outcome.bytes_sent,
        usage=outcome.usage,
        result=outcome.result,
        ending=outcome.ending,
        failures=outcome.failures,
        seen=watching.seen if isinstance(watching, Seeing) else [],
    )


def kernels() -> tuple[Kernel, Kernel]:
    """The native kernel and the one in Python."""
    native = cast(Functions, import_module("gateway.kernel._native"))
    return Kernel("native", native), Kernel("python", reference)


def cut_up(chance: random.Random, stream: bytes, most: int = 8) -> Iterator[bytes]:
    """Parts of a stream: whole events, several of them, or parts of one."""
    events = stream.split(b"\n\n")
    whole = [event + b"\n\n" for event in events[:-1]] + [events[-1]] * bool(events[-1])
    while whole:
        count = chance.choice((1, 1, 1, 2, most))
        part, whole = b"".join(whole[:count]), whole[count:]
        if chance.random() < 0.1:
            place = chance.randrange(len(part) + 1)
            yield part[:place]
            part = part[place:]
        if part:
            yield part


def chunked(parts: Sequence[bytes]) -> list[bytes]:
    """The parts as HTTP chunks, and the last chunk."""
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part] + [b"0\r\n\r\n"]


def in_reads(chance: random.Random, pieces: Sequence[bytes]) -> Iterator[bytes]:
    """The pieces as they may arrive: singly, some of them together, or cut anywhere."""
    held = b""
    for piece in pieces:
        held += piece
        way = chance.random()
        if way < 0.1:
            place = chance.randrange(len(held) + 1)
            if place:
                yield held[:place]
            held = held[place:]
        elif way < 0.8:
            yield held
            held = b""
    if held:
        yield held


class CountingTap:
    """A tap that counts the reads it takes."""

    def __init__(self, tap: Tap, taken: Counter[str]) -> None:
        self._tap = tap
        self._taken = taken

    @property
    def heard_at(self) -> float:
        return self._tap.heard_at

    def arm(self, cut: Cut | Strip | None) -> None:
        self._tap.arm(cut)

    def take(self, data: bytes) -> bool:
        taken = self._tap.take(data)
        self._taken["taken" if taken else "left"] += 1
        return taken

    def settle(self) -> Settled | None:
        return self._tap.settle()


class Counting:
    """The functions of a kernel, whose taps count in `taken` what they take and leave."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.taken: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def tap(self, *arguments: Any, **more: Any) -> Tap | None:
        tap = self._functions.tap(*arguments, **more)
        return None if tap is None else CountingTap(tap, self.taken)
