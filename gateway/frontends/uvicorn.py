"""The caller behind the gateway's own server: responses go straight to its connection.

ASGI's `send` is a coroutine for each message, checks every header again, and writes head and body
separately. The gateway relays a response from the worker's read callback, which cannot await
anything; llhttp has checked the headers already, and each write is a system call. So if the server
is the gateway's own uvicorn, without middleware between, this module frames the bytes and writes
them once. `gateway.frontends.asgi` does the same through ASGI alone, for every other server.
"""

from collections.abc import Callable

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.calls.body import LEFT_EARLY, stalled
from gateway.errors import CallerGone
from gateway.frontends.connection import STATUS_LINES, CallerConnection
from gateway.headers import Headers, get_header
from gateway.upstream.response import BODILESS


class DirectCaller:
    """A gateway.calls.reply.Caller that may be idle for at most `idle_timeout` seconds.

    It sets uvicorn's flags for a response in the same way as uvicorn's own `send`.
    """

    __slots__ = (
        "_chunked",
        "_closing_ends",
        "_connection",
        "_cycle",
        "_flow",
        "_has_body",
        "_head",
        "_idle_timeout",
        "_stalled",
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
        self._chunked = self._closing_ends = self._stalled = False

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

        Raises CallerGone, InvalidHTTP if the body's framing is invalid, or BodyTimeout if nothing
        arrives for `idle_timeout` seconds.
        """
        timer, self._stalled = None, False
        if self._idle_timeout is not None:  # cheaper than a timeout that cancels the task
            timer = self._connection.loop.call_later(self._idle_timeout, self._stall)
        try:
            message: Message = await self._cycle.receive()  # type: ignore[assignment]
        finally:
            if timer is not None:
                timer.cancel()
        if message["type"] == "http.disconnect":
            raise self._connection.fault or CallerGone(LEFT_EARLY)
        chunk, more = message["body"], message["more_body"]
        if not more:
            self._keep_reading()
        elif self._stalled and not chunk:
            raise stalled(self._idle_timeout)
        return chunk, more

    def _stall(self) -> None:
        self._stalled = True
        self._cycle.message_event.set()  # ends the wait without a chunk

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
                self._closing_ends = True
                cycle.keep_alive = False
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
        if self._closing_ends:
            self._connection.reset()  # a mere close would look like the end of the body
        elif self._connection.flow.write_paused:
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
