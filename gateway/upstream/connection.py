"""One HTTP/1.1 connection to a worker; passes data to its receiver inside the read callback."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError, IdleTimeout, UpstreamClosed, UpstreamProtocol
from gateway.headers import Headers
from gateway.kernel.interface import Functions, Tap
from gateway.upstream.delivery import ClosedBeforeDelivery, was_never_received
from gateway.upstream.phase_timer import NEVER, Alarm
from gateway.upstream.response import ResponseParser

_HEAD_END = b"\r\n\r\n"


class Receiver(Protocol):
    """Receives one response inside the worker's read callback, so no method may block.

    The connection calls `on_headers` once (`alone`: no part of the body came with them, `whole`:
    all of it did), `on_body` for each read with a part of the body, then either `on_end` with the
    last bytes or `on_error`.
    The connection drops its reference to the receiver before `on_end` or `on_error`.
    """

    def on_headers(self, status: int, headers: Headers, *, alone: bool, whole: bool) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self, data: bytes) -> None: ...
    def on_error(self, error: GatewayError) -> None: ...


class Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time.

    `response_started`: a byte of the current response has arrived; separates a kept connection that
    was dead from a worker that breaks off a response. If the worker closed the connection before
    the request can have reached it, the error is a ClosedBeforeDelivery. `on_idle` is called when
    another exchange may follow, `on_lost` when the connection has closed. `alarm` is for receivers.

    A Tap may carry reads past the parser and the receiver, see `offer`.
    """

    __slots__ = (
        "_offered",
        "_on_idle",
        "_on_lost",
        "_parser",
        "_receiver",
        "_sent",
        "_sent_before",
        "_tap",
        "_tells_chunks",
        "_told_head",
        "_transport",
        "_unseen",
        "_unsent",
        "_writable",
        "alarm",
        "idle_since",
        "loop",
        "response_started",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        parser: ResponseParser,
        on_idle: "Callable[[Connection], None]",
        on_lost: "Callable[[Connection], None]",
        alarm: Alarm,
    ) -> None:
        self.loop = loop
        self.alarm = alarm
        self.response_started = False
        self.idle_since = 0.0
        self._parser = parser
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._tap: Tap | None = None
        self._offered: Tap | None = None
        self._tells_chunks: Callable[[bytes, list[bytes]], bool] = _unknown
        self._told_head = False
        self._unsent = False
        self._sent = self._sent_before = 0
        self._unseen = False
        self._writable: asyncio.Future[None] | None = None

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    @property
    def heard_at(self) -> float:
        """The loop's time at the latest part of the response to a call; -inf without one."""
        heard: float = getattr(self._receiver, "last", NEVER) if self.response_started else NEVER
        return heard

    @property
    def tappable(self) -> bool:
        """Whether the response has a framing that a Tap may be offered for."""
        return self._parser.until_close or self._parser.is_chunked

    @property
    def is_chunked(self) -> bool:
        return self._parser.is_chunked

    def offer(self, tap: Tap, functions: Functions) -> None:
        """Give the reads to come to `tap` first; call this in `on_body`.

        The parser does not see what the tap takes. So the tap is used only if the parser is between
        two chunks now, until it leaves a read. It may then be offered again.
        """
        self._offered = tap
        self._tells_chunks = functions.is_chunks

    def begin(
        self, receiver: Receiver, head: bytes, *, head_only: bool, more: bool = False
    ) -> None:
        """Send a request and pass its response to `receiver`.

        `head` is the request with all of the body that is available; `more`: the rest follows
        through `write`, its last part with `more=False`. `head_only`: the method is HEAD.
        """
        self._parser.begin(head_only=head_only)
        self._receiver = receiver
        self._tap = None
        self._told_head = self.response_started = False
        self._sent_before = self._sent
        if self._transport is None:
            self.connection_lost(None)  # closed since it was opened
        else:
            self._unsent = more
            self._sent += len(head)
            self._transport.write(head)

    def write(self, data: bytes, *, more: bool) -> None:
        self._unsent = more
        self._sent += len(data)
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self, idle_timeout: float | None) -> None:
        """Wait while the write buffer is full.

        Raises IdleTimeout if that takes more than `idle_timeout` seconds.
        """
        if self._writable is None:
            return
        try:
            async with asyncio.timeout(idle_timeout):
                await self._writable
        except TimeoutError:
            raise IdleTimeout(idle_timeout or 0) from None

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abandon(self, receiver: Receiver) -> None:
        """Close at once if `receiver` still waits, so that the worker notices the abort."""
        if self._receiver is receiver:
            self.abort()

    def abort(self) -> None:
        """Close at once and drop unsent data."""
        self._receiver = self._tap = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is a Transport

    def data_received(self, data: bytes) -> None:
        if self._tap is not None:
            if self._tap.take(data):
                return
            self._tap = None
        receiver, parser = self._receiver, self._parser
        if receiver is None:
            self.abort()  # no request is open: the data could be taken for the next response
            return
        if not self.response_started:
            self.response_started = True
            all_of_it = parser.take_whole(data)
            if all_of_it is not None:
                receiver.on_headers(parser.status, parser.headers, alone=False, whole=True)
                self._finish(receiver, all_of_it)
                return
        try:
            body = parser.feed(data)
        except UpstreamProtocol as error:
            self.abort()
            receiver.on_error(error)
            return
        head = not self._told_head
        if head and parser.head_done:
            self._told_head = True
            whole = parser.complete
            alone = not (body or whole)
            receiver.on_headers(parser.status, parser.headers, alone=alone, whole=whole)
        if parser.complete:
            self._finish(receiver, body)
        elif body:
            receiver.on_body(body)
            if self._offered is not None:
                self._check_tap(self._offered, data, head=head)

    def _check_tap(self, tap: Tap, data: bytes, *, head: bool) -> None:
        """Use the tap from now on if the parser is between two chunks after `data`.

        `head`: the response's head ends in `data`.
        """
        self._offered = None
        parser = self._parser
        if head:  # the guess may be wrong, as what precedes the chunks does not matter
            data = data[data.find(_HEAD_END) + len(_HEAD_END) :]
        if parser.until_close or self._tells_chunks(data, parser.pieces):
            self._tap = tap

    def _finish(self, receiver: Receiver, body: bytes) -> None:
        self._receiver = None
        if self._parser.reusable and not self._unsent:
            self._on_idle(self)
        else:
            self.abort()
        receiver.on_end(body)

    def eof_received(self) -> None:
        if self._transport is not None and self._receiver is not None and not self.response_started:
            self._unseen = was_never_received(self._transport, self._sent_before)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        receiver, self._receiver, self._tap = self._receiver, None, None
        if receiver is not None:
            if self._parser.until_close and exc is None:
                receiver.on_end(b"")
            else:
                kind = ClosedBeforeDelivery if self._unseen else UpstreamClosed
                receiver.on_error(kind("the worker broke off before its answer was whole"))
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)


def _unknown(_: bytes, __: list[bytes]) -> bool:
    return False
