"""A caller's connection: uvicorn's HTTP/1.1 protocol, bounded in size and time before any key.

llhttp gives up the framing of a request that offers an upgrade (`Upgrade: h2c`, as Java's client
sends it): it takes what follows the head for another protocol. The gateway upgrades nothing, so
such a head is parsed again without its `upgrade` lines, and the request is HTTP/1.1 to its end.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Coroutine
from time import monotonic
from typing import Any, cast

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.errors import CallError, HeaderTimeout, InvalidHTTP, NotSupported, TooManyCalls
from gateway.frontends.quiet_timer import QuietTimer
from gateway.frontends.refusals import NO_TUNNEL, USUAL, closing_response, refused
from gateway.frontends.uvicorn import DirectCaller, scope_of, target_of
from gateway.kernel import reference
from gateway.kernel.interface import Functions

_FRAMING = frozenset({b"expect", b"transfer-encoding", b"upgrade"})

MAX_PIPELINED = 256
"""Maximum number of requests that wait on one connection: each costs some kilobytes, key or not."""

LINGER_SECONDS = 2.0
"""Seconds that a caller has to read an early response while it still sends its request."""

SENT_INTERVAL = 0.01
"""Seconds between two looks whether a caller's kernel has received all that was sent."""

SHORT_GRACE = 1.0
"""Seconds that a connection may be idle, or a header take, while others wait for a descriptor."""

LINGER_BYTES = 256 * 1024
"""Bytes that are ignored for so long of a caller whose request is wrong."""


class CallerConnection(HttpToolsProtocol):
    """One caller's connection, with limits on the size of a head and a trailer, and on their time.

    `fault` is what the caller did wrong: nothing is read of the connection from then on. `take`
    returns what carries a request to a worker; if None, a route of the application answers. The
    `functions` of a kernel read what they can; `_between`: llhttp is between two requests.
    """

    max_header_bytes = 64 * 1024
    header_timeout = 10.0
    functions: Functions = reference
    cycle: DirectCaller | None  # type: ignore[assignment]  # it makes no other

    def take(self, request: DirectCaller, /) -> Coroutine[Any, Any, None] | None:
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.fault: CallError | None = None
        self._head_size = self._beside = self._read = 0
        self._head_open = True
        self._offers_upgrade = False
        self._between = True
        self._offers: list[tuple[bytes, bytes]] = []
        self._deaf = self._heading = False
        self._quiet = QuietTimer(self.loop, self.timeout_keep_alive_handler)
        self._running: DirectCaller | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._quiet.begin(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._quiet.stop()
        self.pipeline.clear()
        if self._lingering is not None:
            self._lingering.cancel()
        running, self._running = self._running, None
        if running is not None:  # uvicorn tells only the last request of the connection
            running.leave()
        self.cycle = None  # it refers to this connection

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._running is not None:
            self._running.drained()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._ignore(len(data))
            return
        cycle = self.cycle
        if self._between and (cycle is None or cycle.response_complete):
            found = self.functions.read_request(data, self.max_header_bytes)
            if found is not None:
                self._take_whole(*found)
                return
        self._read = len(data)
        self._between = False
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as offer:
            self._decline(offer, data)
        except HttpParserError as error:
            self._refuse_invalid(error)
        if self.fault is not None:
            self._quiet.ends = None  # calls before it may still run, and nothing is awaited
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if not self._heading:
                self._heading = True
                self._quiet.begin(self.header_timeout)
        elif self._quiet.ends is not None:
            self._heading = False
            self._quiet.ends = None
        if self._head_open:
            self._head_size += len(data)
            if self._head_size > self.max_header_bytes:
                self._refuse(self._too_large("header"))
        else:
            self._beside += len(data)
            if self._beside > self.max_header_bytes:
                self._refuse(self._too_large("trailer"))

    def _take_whole(
        self, target: tuple[str, str, bytes], headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Begin a request that came in one read, and that llhttp need not see."""
        self._head_open = self._heading = False
        self._quiet.ends = None
        self.cycle = cycle = DirectCaller(self, target, "1.1", headers)
        cycle.body, cycle.more_body = body, False
        self._begin(cycle)

    # An offer to upgrade

    def _decline(self, offer: HttpParserUpgrade, data: bytes) -> None:
        """Parse the request again as one that offers nothing, and the rest of `data` after it."""
        rest, offered = memoryview(data), offer.args[0]
        while offered is not None:
            if not self._offers_upgrade:  # a CONNECT: what follows is not HTTP
                self._deaf, self.fault = True, NO_TUNNEL
                return
            rest = rest[offered:]
            head = self._head_without_offer()
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
                offered = None
            except HttpParserUpgrade as another:
                offered = another.args[0]
            except HttpParserError as error:
                self._refuse_invalid(error)
                return

    def _head_without_offer(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self._offers = [line for line in self.headers if line[0] == b"upgrade"]
        kept = [b"%b: %b\r\n" % line for line in self.headers if line[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(kept))

    # llhttp calls these

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        # An unknown part of this read belongs to the previous request, so none of it counts yet.
        self._uncounted = 0 if self.cycle is None else self._read
        self._head_size = -self._uncounted
        self._head_open = True
        self._offers_upgrade = self._between = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_open:
            return  # a trailer is no part of the header, see RFC 9110, 6.5.1
        name = name.lower()
        if name in _FRAMING:
            self._note(name, value.lower())
        self.headers.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"upgrade":
            self._offers_upgrade = True
        elif name == b"transfer-encoding":
            if any(coding.strip() not in (b"", b"chunked") for coding in value.split(b",")):
                self.fault = NotSupported("the only transfer-encoding of a request is chunked")
                raise ValueError  # makes llhttp fail
        elif value == b"100-continue" and self.parser.get_http_version() != "1.0":
            # A caller in HTTP/1.0 would take an interim response for the final one.
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self.fault = TooManyCalls(f"{MAX_PIPELINED} requests wait on this connection already")
            raise ValueError  # makes llhttp fail
        if self._head_size + self._uncounted + self._read > self.max_header_bytes:
            lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._head_size = len(self.url) + lines
            if self._head_size > self.max_header_bytes:
                self.fault = self._too_large("header")
                raise ValueError  # makes llhttp fail
        if self._offers_upgrade and self.parser.should_upgrade():
            return
        if self._offers:
            self.headers += self._offers
            self._offers = []
        self._add_request(target_of(self.url))
        self._head_open = False
        self._beside = -self._read

    def _add_request(self, target: tuple[str, bytes]) -> None:
        """Begin the request whose head is complete, or let it wait for those before it."""
        parser, before = self.parser, self.cycle
        version = parser.get_http_version()
        self.cycle = cycle = DirectCaller(
            self, (parser.get_method().decode(), *target), version, self.headers
        )
        cycle.keep_alive = version != "1.0" and parser.should_keep_alive()
        cycle.waiting_for_100_continue = self.expect_100_continue
        if before is None or before.response_complete:
            self._begin(cycle)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        self._beside = -self._read
        if cycle is not None and not cycle.response_complete:
            cycle.add(body)

    def on_message_complete(self) -> None:
        if not self._head_open and self.cycle is not None:  # else an upgrade is offered
            self.cycle.complete()
            self._between = True

    def _begin(self, cycle: DirectCaller) -> None:
        self._running = cycle
        cycle.began = monotonic()
        refusal = None if cycle.version == "1.1" and cycle.method in USUAL else refused(cycle)
        if refusal is None and (carried := self.take(cycle)) is not None:
            answering = carried
        else:
            cycle.scope = scope_of(cycle, self)
            answering = cycle.run_asgi(refusal or self.app)  # type: ignore[arg-type]
        cycle.task = task = self.loop.create_task(cycle.run(answering))
        self.tasks.add(task)

    # What the caller does wrong

    def _too_large(self, part: str) -> CallError:
        most = f"{self.max_header_bytes} bytes (server_limits.max_header_bytes)"
        return InvalidHTTP(f"the {part} of the request is larger than {most}")

    def _refuse_invalid(self, error: HttpParserError) -> None:
        if self.fault is None and self._head_open and self.parser.get_method() == b"CONNECT":
            self.fault = NO_TUNNEL
        if self.fault is None:
            in_callback = isinstance(error, HttpParserCallbackError)
            why = "its target is invalid" if in_callback else error
            self.fault = InvalidHTTP(f"the request is not valid HTTP/1.1: {why}")
        self._refuse(self.fault)

    def _refuse(self, fault: CallError) -> None:
        """Answer `fault` in place of the request that is wrong, after those before it; then close.

        Nothing more is read, but the end of the connection is still noticed.
        """
        self._deaf, self.fault = True, fault
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and self._head_open):
            self._end_with(fault)
        elif cycle.response_complete:
            self.transport.abort()  # its request has been answered, so nothing is left to say
        elif not self._head_open:
            self._give_up(cycle, fault)

    def _give_up(self, cycle: DirectCaller, fault: CallError) -> None:
        """End a request whose body is wrong."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # it waits for others still, and never begins
        elif cycle.response_started:
            self.transport.abort()
        else:
            cycle.disconnected = True
            cycle.notify()
            self._end_with(fault)

    def on_response_complete(self) -> None:
        if self.fault is not None and not self.pipeline and not self.transport.is_closing():
            self._end_with(self.fault)
            return
        # As uvicorn's, but that a timer is not set for each response.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            waiting, _ = self.pipeline.pop()
            self._begin(cast(DirectCaller, waiting))
        else:
            self._quiet.begin(self.timeout_keep_alive)

    def _ignore(self, size: int) -> None:
        self._beside += size
        if self.fault is not None and self._beside > LINGER_BYTES and self._lingering is not None:
            self.transport.abort()

    def _end_with(self, error: CallError) -> None:
        if self._lingering is not None or self.transport.is_closing():
            return
        self.transport.write(closing_response(error))
        self._half_close()

    # Ends

    def timeout_keep_alive_handler(self) -> None:
        if self._heading and self._head_open:
            self._refuse(HeaderTimeout(self.header_timeout))
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # it has not even read its last response
        else:
            super().timeout_keep_alive_handler()

    def make_room(self) -> None:
        """Close if for SHORT_GRACE seconds no call has run and no header become complete."""
        quiet = self._quiet
        if quiet.ends is not None and self.loop.time() - quiet.since >= SHORT_GRACE:
            self.transport.close()

    def finish(self) -> None:
        """Close after the response, even if the caller is still sending its request.

        Closing with bytes unread would reset the connection, and the response would be lost.
        """
        if self.cycle is not None and self.cycle.more_body and self.transport.can_write_eof():
            self._half_close()
        else:
            self.transport.close()

    def reset(self) -> None:
        """Close with a reset, which no caller takes for the end of a body.

        It follows the bytes sent so far: a reset discards those that are still on their way. A
        caller that does not read gets it after LINGER_SECONDS.
        """
        self._deaf = True
        self._reset_once_sent(self.loop.time() + LINGER_SECONDS)

    def _reset_once_sent(self, latest: float) -> None:
        if self.transport.is_closing():
            return
        raw = self.transport.get_extra_info("socket")
        if self.loop.time() < latest and (self.transport.get_write_buffer_size() or unsent(raw)):
            self._lingering = self.loop.call_later(SENT_INTERVAL, self._reset_once_sent, latest)
            return
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _half_close(self) -> None:
        self._deaf = True
        self._beside = 0
        self._unset_keepalive_if_required()
        self._lingering = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        self.transport.write_eof()
        self.flow.resume_reading()

    def _unset_keepalive_if_required(self) -> None:
        self._quiet.ends = None


def unsent(raw: socket.socket) -> int:
    """Return the bytes that the peer's kernel has not acknowledged yet; 0 if that is not known."""
    try:
        return int.from_bytes(fcntl.ioctl(raw, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
    except OSError:
        return 0
