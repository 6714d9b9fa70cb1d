"""A worker with connections that a test's script controls byte by byte."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

LONGEST_REQUEST = 1 << 30

Script = Callable[["ScriptedConnection"], Awaitable[None]]

PEER_LEFT = (ConnectionError, asyncio.IncompleteReadError)
"""Exceptions that a script need not catch: the peer closed, or sent less than expected."""


class ScriptedWorker:
    """A raw TCP server on a free loopback port, in the running loop, for the length of a block.

        async with ScriptedWorker(answer_of(b"{}")) as worker:
            ...  # worker.url, worker.requests

    If `script` is bytes, every request gets them as its response. If it is a coroutine function, it
    runs once per connection, and the connection closes when it returns. An exception of the script
    other than PEER_LEFT is raised at the end of the block.

    `requests` are the raw requests in the order in which they were completely read; `connections`
    are all connections, closed ones included. With a `tls` context the server uses TLS, and `url`
    begins with https.
    """

    def __init__(self, script: bytes | Script, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections: list[ScriptedConnection] = []
        self._script = _repeating(script) if isinstance(script, bytes) else script
        self._tls = tls
        self._port = 0
        self._server: asyncio.Server | None = None
        self._running: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """URL of the server, without a slash at the end."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._port}"

    @property
    def connections_open(self) -> int:
        return sum(not connection.closed.is_set() for connection in self.connections)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self) -> "ScriptedConnection":
        return ScriptedConnection(self.requests, self._connected)

    def _connected(self, connection: "ScriptedConnection") -> None:
        self.connections.append(connection)
        self._running.append(asyncio.create_task(self._run(connection)))

    async def _run(self, connection: "ScriptedConnection") -> None:
        try:
            with suppress(*PEER_LEFT):
                await self._script(connection)
        finally:
            connection.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for running in self._running:
            running.cancel()
        ended = await asyncio.gather(*self._running, return_exceptions=True)
        for connection in self.connections:
            connection.abort()
        for connection in self.connections:
            await connection.wait_closed()
        raised = [one for one in ended if isinstance(one, Exception)]
        if raised and error is None:
            raise raised[0]


class ScriptedConnection(asyncio.Protocol):
    """One connection to a ScriptedWorker, controlled by the script.

    `reader` holds the peer's bytes that were not read yet. `closed` is set once the connection is
    closed by either side.
    """

    def __init__(
        self, requests: list[bytes], connected: Callable[["ScriptedConnection"], None]
    ) -> None:
        self.reader = asyncio.StreamReader(LONGEST_REQUEST)
        self.closed = asyncio.Event()
        self._requests = requests
        self._connected = connected
        self._writable = asyncio.Event()
        self._writable.set()

    async def read_request(self) -> bytes:
        """Read the next request; returns the raw bytes of head and body.

        Raises asyncio.IncompleteReadError or ConnectionError if the peer closes before its end.
        """
        request = await self.reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().partition(b":")[::2] for line in request.split(b"\r\n"))
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            request += await self._chunks()
        else:
            request += await self.reader.readexactly(int(fields.get(b"content-length", b"0")))
        self._requests.append(request)
        return request

    async def _chunks(self) -> bytes:
        body, size = b"", -1
        while size:
            line = await self.reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            body += line + await self.reader.readexactly(size + 2)
        return body

    async def write(self, data: bytes) -> None:
        """Send `data`, and wait while the write buffer is full.

        Raises ConnectionError if the peer has closed.
        """
        self._raise_if_closed()
        self._transport.write(data)
        await self._writable.wait()
        self._raise_if_closed()

    async def dribble(self, data: bytes) -> None:
        """Send `data` byte by byte; a peer in the same loop reads each byte separately."""
        for at in range(len(data)):
            await self.write(data[at : at + 1])
            await asyncio.sleep(0)

    def _raise_if_closed(self) -> None:
        if self.closed.is_set():
            raise ConnectionResetError("the peer has closed the connection")

    def close(self) -> None:
        """Close after all data is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once and drop unsent data."""
        self._transport.abort()

    def reset(self) -> None:
        """Close at once with RST, by closing the socket with a linger time of zero."""
        raw: socket.socket = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def wait_closed(self) -> None:
        await self.closed.wait()

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connected(self)

    def data_received(self, data: bytes) -> None:
        self.reader.feed_data(data)

    def eof_received(self) -> None:
        self.reader.feed_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._writable.set()
        if exc is None:
            self.reader.feed_eof()
        else:
            self.reader.set_exception(exc)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


def answer_of(
    body: bytes, *, status: str = "200 OK", content_type: str = "application/json"
) -> bytes:
    """Build an HTTP/1.1 response with a content-length."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return head.encode("latin-1") + b"\r\n\r\n" + body


def _repeating(answer: bytes) -> Script:
    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.write(answer)

    return script
