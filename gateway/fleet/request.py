"""A request to one worker that is not a call: a probe, a query, a command to its engine."""

import asyncio
from typing import TYPE_CHECKING

import msgspec

from gateway.errors import GatewayError, UpstreamError, UpstreamTimeout
from gateway.headers import Headers
from gateway.upstream.connection import Connection

if TYPE_CHECKING:
    from gateway.fleet.worker import Worker


class WorkerAnswer(msgspec.Struct, frozen=True):
    """A worker's response to `Worker.ask`, with the whole body."""

    status: int
    headers: Headers
    body: bytes


async def ask(
    worker: "Worker", method: str, target: str, body: bytes, headers: Headers, patience: float
) -> WorkerAnswer:
    """Send a request on a new connection, then close it. Raises UpstreamError, UpstreamTimeout."""
    head = worker.head.fill(method, target, headers, "gateway", len(body), readable=True)
    try:
        async with asyncio.timeout(patience):
            connection = await worker.pool.open()
            gathering = _Gathering(connection, worker.pool.limits.max_body_bytes)
            try:
                connection.begin(gathering, head + body, head_only=method == "HEAD", more=False)
                return await gathering.done
            finally:
                connection.forsake(gathering)
    except TimeoutError:
        raise UpstreamTimeout(patience) from None


class _Gathering:
    """A Receiver (see upstream.connection) that keeps at most `most` bytes of a body."""

    def __init__(self, connection: Connection, most: int) -> None:
        self.done: asyncio.Future[WorkerAnswer] = connection.loop.create_future()
        self._connection = connection
        self._most = most
        self._body = bytearray()

    def on_headers(self, status: int, headers: Headers, *, alone: bool) -> None:
        self._status, self._headers = status, headers

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._most:
            self.on_error(UpstreamError("the worker's answer is larger than limits.max_body_bytes"))

    def on_end(self, data: bytes) -> None:
        self._connection.abort()  # now: the connection is in the pool, and no call may take it
        self.on_body(data)
        if not self.done.done():
            self.done.set_result(WorkerAnswer(self._status, self._headers, bytes(self._body)))

    def on_error(self, error: GatewayError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
