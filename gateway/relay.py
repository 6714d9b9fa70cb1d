"""Carries one answer to the caller, inside the worker's read callback."""

import asyncio
from time import monotonic
from typing import Protocol

from gateway.call import Attempt, Call, Headers, is_event_stream
from gateway.config import Config
from gateway.errors import CallerStalled, FirstByteTimeout, GatewayError, IdleTimeout
from gateway.reading import Reader, reader_for
from gateway.upstream.response import BODILESS, HOP_BY_HOP, without
from gateway.upstream.timeouts import Patience

DROPPED = HOP_BY_HOP | {b"x-request-id", b"x-gateway-worker"}


class Source(Protocol):
    """Where the answer comes from, as far as the relay turns its tap."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Relay:
    """The Receiver of one answer (see upstream.connection), from a worker or from a `handle` hook.

    `done` gives the last bytes, not yet sent to the caller, or raises what ended the attempt: a
    CallError, or CallerGone.
    """

    __slots__ = (
        "_attempt",
        "_call",
        "_headers",
        "_limits",
        "_patience",
        "_reader",
        "_source",
        "_status",
        "_timeouts",
        "done",
    )

    def __init__(
        self,
        call: Call,
        attempt: Attempt | None,
        source: Source,
        settings: Config,
    ) -> None:
        self.done: asyncio.Future[bytes] = source.loop.create_future()
        self._call = call
        self._attempt = attempt
        self._source = source
        self._timeouts = settings.timeouts
        self._limits = settings.limits
        self._reader: Reader | None = None
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._patience = Patience(source.loop, self.on_error)

    def await_first_byte(self) -> None:
        """The request has gone out whole: the worker's time runs."""
        if not self._status and not self.done.done():
            self._patience.enter(self._timeouts.first_byte, FirstByteTimeout)

    # whoever reads the answer calls these

    def on_headers(self, status: int, headers: Headers, *, alone: bool) -> None:
        self._note_head(status)
        if self._call.observers.started:
            self._call.observers.tell_started(status, headers)
        events = is_event_stream(headers)
        most = self._limits.max_event_bytes if events else self._limits.max_body_bytes
        self._reader = reader_for(self._call, status, headers, most, events=events)
        self._headers = self._answer_headers(status, headers)
        self._call.caller.drained = self._resume
        self._patience.enter(self._timeouts.idle, IdleTimeout)
        if events or self._reader is None or not self._reader.rewrites:
            self._start(None)
            if alone:
                self._call.reply.send_head()

    def on_body(self, data: bytes) -> None:
        self._patience.touch()
        if self._reader is not None:
            data = self._reader.feed(data)
        if data:
            if not self._call.reply.begun:
                self._start(None)
            if not self._call.reply.write(data):
                self._pause()

    def on_end(self, data: bytes) -> None:
        self._patience.leave()
        if self._reader is not None:
            data = (self._reader.feed(data) if data else b"") + self._reader.close()
        if not self.done.done():
            if not self._call.reply.begun:
                self._start(len(data))
            self.done.set_result(data)

    def on_error(self, error: GatewayError) -> None:
        self._patience.leave()
        if not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        """Nothing more will come, or be listened to."""
        self._patience.leave()
        self._call.caller.drained = _nothing

    def _note_head(self, status: int) -> None:
        self._status = status
        if self._attempt is not None:
            self._attempt.status = status
            self._attempt.first_byte = monotonic()

    def _answer_headers(self, status: int, headers: Headers) -> list[tuple[bytes, bytes]]:
        dropped = DROPPED | {b"content-length"} if status in BODILESS else DROPPED
        lines = without(headers, dropped)
        lines.append((b"x-request-id", self._call.id.encode()))
        if self._attempt is not None:
            lines.append((b"x-gateway-worker", self._attempt.worker.id.encode()))
        return lines

    def _start(self, length: int | None) -> None:
        """Send the head. `length`: of the whole body, where it is known and may have changed."""
        lines = self._headers
        if self._reader is not None and self._reader.rewrites:
            known = [] if length is None else [(b"content-length", b"%d" % length)]
            lines = [
                line for old in lines for line in (known if old[0] == b"content-length" else [old])
            ]
        self._call.reply.start(self._status, lines)

    def _pause(self) -> None:
        self._source.pause_reading()
        self._patience.enter(self._timeouts.idle, CallerStalled)

    def _resume(self) -> None:
        if not self.done.done():
            self._patience.enter(self._timeouts.idle, IdleTimeout)
            self._source.resume_reading()


def _nothing() -> None:
    pass
