"""One request of a caller's connection under the gateway's own server, and the way back.

ASGI's `send` is a coroutine for each message, checks every header again, and writes head and body
separately. The gateway relays a response from the worker's read callback, which cannot await
anything; llhttp has checked the headers already, and each write is a system call. So if the server
is the gateway's own uvicorn, without middleware between, this module frames the bytes and writes
them once. `gateway.frontends.asgi` does the same through ASGI alone, for every other server.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

from httptools import parse_url
from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.calls.body import LEFT_EARLY, stalled
from gateway.calls.call import Call
from gateway.calls.cancel import LEFT
from gateway.errors import CallerGone, CallError
from gateway.headers import Headers
from gateway.kernel.interface import Functions, Line
from gateway.upstream.response import BODILESS

PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {
    status: f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n".encode()
    for status in range(100, 600)
}

_LENGTH = b"\r\ncontent-length: "
_CLOSES = b"\r\nconnection: close\r\n"
_NO_NAMES: frozenset[bytes] = frozenset()


class Connection(Protocol):
    """The part of a CallerConnection that its requests use."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    client: tuple[str, int] | None
    tasks: set[asyncio.Task[None]]
    fault: CallError | None
    functions: Functions

    def on_response_complete(self) -> None: ...
    def finish(self) -> None: ...
    def reset(self) -> None: ...


class DirectCaller(RequestResponseCycle):
    """A gateway.calls.reply.Caller, and uvicorn's object for one request: a call needs no other.

    `path` is as the caller sent it, percent-encoding kept. `began` is `time.monotonic()`: the
    head was complete, and it was this request's turn. A request that a route answers goes on
    through ASGI, by the methods of the superclass and with a `scope`; a call has none. The flags
    for a response are set in the same way as by uvicorn's own `send`.
    """

    # How every request begins; uvicorn's constructor would set each of them.
    logger = logging.getLogger("uvicorn.error")
    access_log = False
    default_headers: list[tuple[bytes, bytes]] = []  # noqa: RUF012  uvicorn only reads it
    disconnected = response_started = response_complete = waiting_for_100_continue = False
    keep_alive = more_body = True
    chunked_encoding = None
    expected_content_length = 0
    body: bytes | bytearray = b""  # type: ignore[assignment]
    idle_timeout: float | None = None
    task: asyncio.Task[None]
    began = 0.0
    _call: Call | None = None
    _event: asyncio.Event | None = None
    _head = b""
    _has_body = True
    _chunked = _closing_ends = _stalled = False

    def __init__(
        self,
        connection: Connection,
        target: tuple[str, str, bytes],
        version: str,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self.drained: Callable[[], None] = _nothing
        self._connection = connection
        self.transport = connection.transport
        self.flow = connection.flow
        self.method, self.path, self.query = target
        self.version = version
        self.headers = headers
        self.client = connection.client[0] if connection.client else None

    @classmethod
    def behind(cls, receive: Receive, send: Send) -> "DirectCaller | None":
        """Return the caller, or None if `receive` and `send` are not a CallerConnection's own."""
        cycle = getattr(send, "__self__", None)
        return cycle if isinstance(cycle, cls) and receive == cycle.receive else None

    async def run(self, answering: Coroutine[Any, Any, None]) -> None:
        """Await what answers the request; if that fails, close as uvicorn's `run_asgi` does."""
        try:
            await answering
        except BaseException as error:
            self.logger.error("Exception in ASGI application\n", exc_info=error)
            if self.response_started:
                self.transport.close()
            else:
                await self.send_500_response()
        finally:  # cheaper than a callback of the task
            self._connection.tasks.discard(self.task)

    # The connection calls these

    def add(self, data: bytes) -> None:
        """Take a part of the body; pause the connection if it is much."""
        body = self.body
        if not body:
            self.body = data
        elif isinstance(body, bytearray):
            body += data
        else:
            self.body = bytearray(body) + data
        if len(self.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        if self._event is not None:
            self._event.set()

    def complete(self) -> None:
        """Note that the body is whole."""
        self.more_body = False
        if self._event is not None:
            self._event.set()

    def leave(self) -> None:
        """Note that the caller has closed its connection, and cancel its call."""
        if not self.response_complete:
            self.disconnected = True
            self.notify()
        if self._call is not None:
            self._call.cancel(CallerGone(LEFT))

    def on_response(self) -> None:
        self._connection.on_response_complete()

    # The request

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """What `receive` waits for. Most calls have their body at once, and need none."""
        event = self._event
        if event is None:
            event = self._event = asyncio.Event()
            if self.body or not self.more_body:
                event.set()
        return event

    def notify(self) -> None:
        """End a wait for the body, or for the disconnect."""
        if self._event is not None:
            self._event.set()

    def watch(self, call: Call) -> None:
        """Cancel `call` if the caller closes its connection before its response is complete."""
        self._call = call

    def whole_body(self) -> bytes | None:
        """Return the request body if all of it has arrived, else None."""
        if self.more_body or self.disconnected:
            return None
        if self.flow.read_paused:
            self._keep_reading()
        data, self.body = bytes(self.body), b""
        return data

    async def receive(self) -> Message:  # type: ignore[override]
        """As of uvicorn, but what came before the caller left is not lost."""
        message: Message = await super().receive()  # type: ignore[assignment]
        if message["type"] != "http.disconnect" or not self.body or self.response_complete:
            return message
        body, self.body = bytes(self.body), b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def next_chunk(self) -> tuple[bytes, bool]:
        """Return the next chunk of the request body, and whether more follows.

        Raises CallerGone, InvalidHTTP if the body's framing is invalid, or BodyTimeout if nothing
        arrives for `idle_timeout` seconds.
        """
        timer, self._stalled = None, False
        if self.idle_timeout is not None:  # cheaper than a timeout that cancels the task
            timer = self._connection.loop.call_later(self.idle_timeout, self._stall)
        try:
            message = await self.receive()
        finally:
            if timer is not None:
                timer.cancel()
        if message["type"] == "http.disconnect":
            raise self._connection.fault or CallerGone(LEFT_EARLY)
        chunk, more = message["body"], message["more_body"]
        if not more:
            self._keep_reading()
        elif self._stalled and not chunk:
            raise stalled(self.idle_timeout)
        return chunk, more

    def _stall(self) -> None:
        self._stalled = True
        self.notify()  # ends the wait without a chunk

    def _keep_reading(self) -> None:
        """Resume after a large body: a paused connection does not notice a disconnect."""
        self.flow.resume_reading()

    # The response

    def start(self, status: int, headers: Headers) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        self._has_body = self.method != "HEAD" and status not in BODILESS
        first = STATUS_LINES[status]
        head = self._connection.functions.join_lines(first, headers, _NO_NAMES, b"")
        if head is None:
            head = b"".join((first, *[b"%b: %b\r\n" % line for line in headers]))
        if self._has_body and _LENGTH not in head:
            if self.version == "1.1":
                self._chunked = True
                head += b"transfer-encoding: chunked\r\n"
            else:
                self._closing_ends = True
                self.keep_alive = False
        if _CLOSES in head:
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        self._head = head + b"\r\n"

    def _send(self, data: bytes) -> None:
        if not self._has_body:
            data = b""  # an error's body after HEAD, or a plugin's where none is allowed
        if self._head:
            data, self._head = self._head + data, b""
        if not self.disconnected:
            self.transport.write(data)

    def write(self, data: bytes) -> bool:
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._head or not self._has_body or self.disconnected:
            self._send(data)
        else:
            self.transport.write(data)
        return not self.flow.write_paused

    @property
    def line(self) -> Line | None:
        """See Reply.line; only once the head is sent."""
        if self._head or not self._has_body:
            return None
        return self.transport.write, self._chunked, self.flow, self

    async def end(self, data: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if self.disconnected:
            return
        if not self._has_body:
            data = b""
        self.transport.write(self._head + data)
        self._head = b""
        self.response_complete = True
        if self._event is not None:
            self._event.set()
        if not self.keep_alive:
            self._connection.finish()
        self._connection.on_response_complete()

    def cut(self) -> None:
        self.release()
        self._send(b"")
        self.disconnected = True  # else uvicorn reports an unfinished response
        if self._closing_ends:
            self._connection.reset()  # a mere close would look like the end of the body
        elif self.flow.write_paused:
            self.transport.abort()
        else:
            self.transport.close()

    async def settle(self) -> None:
        """Return at once: the transport sends the bytes that the caller has not read yet."""

    def release(self) -> None:
        """End the call. Breaks reference cycles too, so that nothing waits for the collector."""
        self.drained = _nothing
        self._call = None


def target_of(url: bytes) -> tuple[str, bytes]:
    """Return the path and the query of a request. Raises an error if the target is invalid."""
    if url[:1] == b"/" and b"#" not in url:
        path, _, query = url.partition(b"?")
    else:
        parsed = parse_url(url)
        path, query = parsed.path, parsed.query or b""
    return path.decode("ascii"), query


def scope_of(request: DirectCaller, connection: HttpToolsProtocol) -> Any:
    """Return ASGI's view of a request, as uvicorn makes it."""
    root = connection.root_path
    return {
        "type": "http",
        "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
        "http_version": request.version,
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme,
        "method": request.method,
        "root_path": root,
        "path": root + unquote(request.path),
        "raw_path": (root + request.path).encode("ascii"),
        "query_string": request.query,
        "headers": request.headers,
        "state": connection.app_state.copy(),
    }


def _nothing() -> None:
    pass
