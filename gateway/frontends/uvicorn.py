"""The caller behind the gateway's own server: responses go straight to its connection.

ASGI's `send` is a coroutine for each message, checks every header again, and writes head and body
separately. The gateway relays a response from the worker's read callback, which cannot await
anything; llhttp has checked the headers already, and each write is a system call. So if the server
is the gateway's own uvicorn, without middleware between, this module frames the bytes and writes
them once. `gateway.frontends.asgi` does the same through ASGI alone, for every other server.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.calls.body import receive_chunk
from gateway.headers import Headers, get_header
from gateway.upstream.response import BODILESS

PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {
    status: f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}

TOO_LARGE = "The request header is too large."

LINGER_SECONDS = 2.0
"""Seconds that a caller has to read an early response while it still sends its request."""


class CallerConnection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits on header size and on silence after connecting.

    It calls `left` when the caller has disconnected, `drained` when the caller reads again.
    """

    max_header_bytes = 64 * 1024

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.left: Callable[[], None] = _nothing
        self.drained: Callable[[], None] = _nothing
        self._head_size = self._read = 0
        self._head_open = True
        self._lingering: asyncio.TimerHandle | None = None
        self._expect_more()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._lingering is not None:
            self._lingering.cancel()
        self.left()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.drained()

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            return
        self._read = len(data)
        super().data_received(data)
        if self._head_open and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > self.max_header_bytes:
                self.send_400_response(TOO_LARGE)
            else:
                self._expect_more()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # An unknown part of this read belongs to the previous request, so none of it counts yet.
        self._uncounted = 0 if self.cycle is None else self._read
        self._head_size = -self._uncounted
        self._head_open = True

    def on_headers_complete(self) -> None:
        self._head_open = False
        if self._head_size + self._uncounted + self._read > self.max_header_bytes:
            lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._head_size = len(self.url) + lines
            if self._head_size > self.max_header_bytes:
                raise ValueError(TOO_LARGE)  # makes llhttp fail, and uvicorn then sends a 400
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(TOO_LARGE if self._head_size > self.max_header_bytes else msg)

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it has not even read its last response
        else:
            super().timeout_keep_alive_handler()

    def finish(self) -> None:
        """Close after the response, even if the caller is still sending its request.

        Closing with bytes unread would reset the connection, and the response would be lost.
        """
        if self.cycle.more_body and self.transport.can_write_eof():
            self._lingering = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _expect_more(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


class DirectCaller:
    """A gateway.calls.reply.Caller that may be idle for at most `idle_timeout` seconds.

    It sets uvicorn's flags for a response in the same way as uvicorn's own `send`.
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_cycle",
        "_flow",
        "_has_body",
        "_head",
        "_idle_timeout",
        "_transport",
        "drained",
    )

    def __init__(
        self, connection: CallerConnection, cycle: RequestResponseCycle, idle_timeout: float | None
    ) -> None:
        self.drained: Callable[[], None] = _nothing
        self._connection = connection
        self._transport = connection.transport
        self._flow = connection.flow
        self._cycle = cycle
        self._idle_timeout = idle_timeout
        self._head = b""
        self._has_body = True
        self._chunked = False

    @classmethod
    def behind(
        cls, receive: Receive, send: Send, idle_timeout: float | None
    ) -> "DirectCaller | None":
        """Return the caller, or None if `receive` and `send` are not a CallerConnection's own."""
        cycle = getattr(send, "__self__", None)
        if not isinstance(cycle, RequestResponseCycle) or receive != cycle.receive:
            return None
        connection = getattr(cycle.on_response, "__self__", None)
        if not isinstance(connection, CallerConnection):
            return None
        return cls(connection, cycle, idle_timeout)

    def watch(self, left: Callable[[], None]) -> None:
        """Call `left` if the caller closes its connection before its response is complete."""
        self._connection.left = left

    def whole_body(self) -> bytes | None:
        """Return the request body if all of it has arrived, else None."""
        cycle = self._cycle
        if cycle.more_body or cycle.disconnected:
            return None
        self._keep_reading()
        data, cycle.body = bytes(cycle.body), bytearray()
        return data

    async def next_chunk(self) -> tuple[bytes, bool]:
        """Return the next chunk of the request body, and whether more follows.

        Raises CallerGone, or BodyTimeout if nothing arrives for `idle_timeout` seconds.
        """
        receive: Receive = self._cycle.receive  # type: ignore[assignment]
        chunk, more = await receive_chunk(receive, self._idle_timeout)
        if not more:
            self._keep_reading()
        return chunk, more

    def _keep_reading(self) -> None:
        """Resume after a large body: a paused connection does not notice a disconnect."""
        self._connection.flow.resume_reading()

    def start(self, status: int, headers: Headers) -> None:
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        lines = [STATUS_LINES[status]]
        lines += [b"%b: %b\r\n" % line for line in headers]
        self._has_body = cycle.scope["method"] != "HEAD" and status not in BODILESS
        if self._has_body and get_header(headers, b"content-length") is None:
            if cycle.scope["http_version"] == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                cycle.keep_alive = False  # the end of the connection ends the body
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._head = b"".join(lines)

    def _send(self, data: bytes) -> None:
        if not self._has_body:
            data = b""  # an error's body after HEAD, or a plugin's where none is allowed
        if self._head:
            data, self._head = self._head + data, b""
        if not self._cycle.disconnected:
            self._transport.write(data)

    def write(self, data: bytes) -> bool:
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head or not self._has_body or self._cycle.disconnected:
            self._send(data)
        else:
            self._transport.write(data)
        if not self._flow.write_paused:
            return True
        self._connection.drained = self.drained
        return False

    async def end(self, data: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        self._send(data)
        cycle = self._cycle
        if cycle.disconnected:
            return
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._connection.finish()
        cycle.on_response()

    def cut(self) -> None:
        self.release()
        self._send(b"")
        self._cycle.disconnected = True  # else uvicorn reports an unfinished response
        if self._connection.flow.write_paused:
            self._connection.transport.abort()
        else:
            self._connection.transport.close()

    async def settle(self) -> None:
        """Return at once: the transport sends the bytes that the caller has not read yet."""

    def release(self) -> None:
        """End the call. Breaks reference cycles too, so that nothing waits for the collector."""
        self.drained = self._connection.left = self._connection.drained = _nothing


def _nothing() -> None:
    pass
