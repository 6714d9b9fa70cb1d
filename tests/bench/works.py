"""The works that systems do while they are measured, and what was found."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Protocol
from urllib.parse import urlsplit

import msgspec

from bench.meter import Meter, Spent, used
from bench.processes import MEASURED, OTHERS, pinned
from bench.running import Running
from bench.stack import token_of
from bench.systems import CHAT

KIB, MIB = 1024, 1024 * 1024

NEVER = 3600.0
"""Seconds."""

FULL = 0.95
"""The share of its time from which on a processor is called full."""

LATE = 3
"""How many gaps of the worker's the longest of a hundred gaps may be at most."""


class Reading(msgspec.Struct, kw_only=True):
    """One work of one system in one round; None is what this work does not tell.

    CPU is in microseconds of user and system time of the whole system, and of it those of the event
    loop and those of the other threads, as far as they are known. Times are in milliseconds: of
    whole calls, to the first event, and between events. `memory` is resident, in MiB, at the end;
    `idle_memory` before the first call; `per_stream` in KiB. `per_gib` is the seconds that a GiB of
    an upload takes. `answered` counts every call.

    Of the time of the measured processor, it was `busy` for this share; other programs took
    `others`, the machine below `stolen`. If the reading is of no use, `useless` says why.
    """

    per_call: float | None = None
    per_event: float | None = None
    loop_per_call: float | None = None
    loop_per_event: float | None = None
    threads_per_call: float | None = None
    threads_per_event: float | None = None
    rate: float | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    ttft_p50: float | None = None
    ttft_p99: float | None = None
    gap_p99: float | None = None
    memory: float | None = None
    idle_memory: float | None = None
    per_stream: float | None = None
    per_gib: float | None = None
    busy: float | None = None
    others: float | None = None
    stolen: float | None = None
    useless: str = ""
    answered: int = 0
    errors: int = 0
    first_error: str = ""


class Work(Protocol):
    @property
    def name(self) -> str: ...

    def do(self, running: Running, seconds: float) -> Reading:
        """With so many seconds in which it is measured, or a few more."""


class Quantiles(msgspec.Struct, frozen=True):
    p50: float | None
    p99: float | None


class Told(msgspec.Struct, frozen=True):
    """What the program `load` prints at its end."""

    seconds: float
    calls: int
    events: int
    answered: int
    errors: int
    first_error: str
    latency: Quantiles
    ttft: Quantiles
    gap: Quantiles


class Calls(msgspec.Struct, frozen=True, kw_only=True):
    """So many callers that call without a pause, for `least` seconds or more.

    If they are of gRPC, they are streams; `path` is that of another API than chat. `gap` is the
    time between the events of a worker's stream in seconds, 0: none. The callers begin one by one
    over `spread` seconds. Where there are `beside`, these are made at the same time, and nothing is
    told of them but their errors.
    """

    name: str
    callers: int = 32
    stream: bool = False
    grpc: bool = False
    path: str = CHAT
    tokens: int = 64
    prompt_tokens: int = 32
    prompt_bytes: int = 512
    gap: float = 0.0
    spread: float = 0.0
    least: float = 0.0
    beside: "Calls | None" = None

    def do(self, running: Running, seconds: float) -> Reading:
        seconds = max(seconds, self.least)
        with ExitStack() as stack:
            beside = None
            if self.beside is not None:
                beside = stack.enter_context(pinned(self.beside.argv(running, seconds), OTHERS))
            main = stack.enter_context(pinned(self.argv(running, seconds), OTHERS))
            reading = _read(main, running)
            if beside is not None:
                _add(reading, _told(beside))
        reading.useless = ", ".join(self.faults(reading, measured=running.pid is not None))
        return reading

    def faults(self, reading: Reading, *, measured: bool) -> Iterator[str]:
        """Why the reading is of no use. Events that wait share reads, and look cheap.

        Calls without gaps fill the processor, and are meant to. `measured`: there is a system.
        """
        if not self.gap or self.beside is not None:
            return
        if measured and reading.busy is not None and reading.busy > FULL:
            yield f"the processor was {reading.busy:.0%} busy"
        if reading.gap_p99 is not None and reading.gap_p99 > LATE * self.gap * 1e3:
            yield f"gap p99 {reading.gap_p99:.0f} ms"

    def _url(self, running: Running) -> str:
        return running.url.replace(CHAT, self.path)

    def argv(self, running: Running, seconds: float) -> list[str]:
        warm = 1.0 + self.spread
        return [
            *(str(running.load), "-url", self._url(running), "-callers", str(self.callers)),
            *(["-grpc", running.grpc] if self.grpc else []),
            *("-warm", f"{warm}s", "-for", f"{seconds}s", "-spread", f"{self.spread}s"),
            *("-sessions", str(running.system.sessions), "-keys", str(running.system.keys)),
            *("-prompt-bytes", str(self.prompt_bytes), *(["-stream"] if self.stream else [])),
            *("-text", orders(self.tokens, self.prompt_tokens, self.gap)),
        ]


def orders(tokens: int, prompt_tokens: int, gap: float) -> str:
    """What tells the worker in a call's text how to answer, for not every gateway passes headers
    on; `gap` in seconds."""
    return f" tokens={tokens} prompt-tokens={prompt_tokens} gap-us={gap * 1e6:.0f} "


def _read(load: subprocess.Popen[bytes], running: Running) -> Reading:
    before = _meter_at(load, b"begin", running)
    spent = Spent.between(before, _meter_at(load, b"end", running))
    told = _told(load)
    return Reading(
        per_call=_each(spent.cpu, told.calls),
        per_event=_each(spent.cpu, told.events),
        loop_per_call=_each(spent.loop, told.calls),
        loop_per_event=_each(spent.loop, told.events),
        threads_per_call=_each(spent.threads, told.calls),
        threads_per_event=_each(spent.threads, told.events),
        busy=spent.busy,
        others=spent.others,
        stolen=spent.stolen,
        rate=told.calls / told.seconds,
        latency_p50=told.latency.p50,
        latency_p99=told.latency.p99,
        ttft_p50=told.ttft.p50,
        ttft_p99=told.ttft.p99,
        gap_p99=told.gap.p99,
        memory=used(running.pid).memory / MIB if running.pid is not None else None,
        answered=told.answered,
        errors=told.errors,
        first_error=told.first_error,
    )


def _add(reading: Reading, beside: Told) -> None:
    reading.answered += beside.answered
    reading.errors += beside.errors
    reading.first_error = reading.first_error or beside.first_error


def _each(seconds: float, count: int) -> float | None:
    return seconds * 1e6 / count if seconds and count else None


def _meter_at(load: subprocess.Popen[bytes], word: bytes, running: Running) -> Meter:
    """As it stands when the program says the word."""
    line = _output(load).readline()
    if line.strip() != word:
        raise RuntimeError(f"the load generator said {line!r}, expected {word!r}")
    return Meter.now(running.pid, MEASURED)


def _told(load: subprocess.Popen[bytes]) -> Told:
    lines = _output(load).read().splitlines()
    return msgspec.json.decode(lines[-1], type=Told)


def _output(load: subprocess.Popen[bytes]) -> IO[bytes]:
    assert load.stdout is not None
    return load.stdout


class Idle(msgspec.Struct, frozen=True):
    """So many streams of which nothing comes after the first event."""

    name: str
    streams: int = 1_000
    warm: int = 100

    def do(self, running: Running, seconds: float) -> Reading:
        assert running.pid is not None, "a worker's memory is not measured"
        idle = used(running.pid).memory
        with ExitStack() as opened:
            _open(running, self.warm, opened)  # what is loaded once is loaded now
            before = used(running.pid).memory
            _open(running, self.streams, opened)
            time.sleep(min(seconds, 1.0))
            after = used(running.pid).memory
        return Reading(
            idle_memory=idle / MIB,
            memory=after / MIB,
            per_stream=(after - before) / self.streams / KIB,
        )


class IdleGrpc(msgspec.Struct, frozen=True):
    """So many streams over gRPC, 100 to a connection, of which nothing comes after the first."""

    name: str
    streams: int = 2_000
    warm: int = 100
    spread: float = 2.0

    def do(self, running: Running, seconds: float) -> Reading:
        assert running.pid is not None, "a worker's memory is not measured"
        with ExitStack() as opened:
            self._open(running, self.warm, opened)  # what is loaded once is loaded now
            before = used(running.pid).memory
            self._open(running, self.streams, opened)
            after = used(running.pid).memory
        return Reading(memory=after / MIB, per_stream=(after - before) / self.streams / KIB)

    def _open(self, running: Running, count: int, opened: ExitStack) -> None:
        calls = Calls(name="", callers=count, grpc=True, tokens=2, gap=NEVER, spread=self.spread)
        load = opened.enter_context(pinned(calls.argv(running, NEVER), OTHERS))
        if _output(load).readline().strip() != b"begin":
            raise RuntimeError("the load generator did not begin")


def _open(running: Running, count: int, opened: ExitStack) -> None:
    where = urlsplit(running.url)
    assert where.hostname is not None
    content = orders(tokens=2, prompt_tokens=32, gap=NEVER)
    messages = [{"role": "user", "content": content}]
    body = msgspec.json.encode({"model": "bench-model", "stream": True, "messages": messages})
    head = (
        f"POST {where.path.replace('%s', 'idle')} HTTP/1.1\r\nhost: {where.netloc}\r\n"
        f"authorization: Bearer {token_of(0)}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    for _ in range(count):
        one = opened.enter_context(socket.create_connection((where.hostname, where.port)))
        one.sendall(head.encode() + body)
        said = b""
        while b"data:" not in said:
            said += (more := one.recv(65536))
            if not more:
                raise RuntimeError(f"a stream did not begin: {said[:200]!r}")
