"""A request to one worker that is not a call: a probe, a query, a command to its engine."""

import asyncio

import msgspec

from gateway.errors import GatewayError, UpstreamError, UpstreamTimeout
from gateway.headers import Headers
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Pool


class WorkerAnswer(msgspec.Struct, frozen=True):
    """A worker's response to `Worker.request`, with the whole body."""

    status: int
    headers: Headers
    body: bytes


async def request(
    pool: Pool,
    data: bytes,
    *,
    head_only: bool,
    timeout: float,  # noqa: ASYNC109  it raises UpstreamTimeout
) -> WorkerAnswer:
    """Send `data`, head and body, on a new connection, and close the connection after the response.

    `head_only`: the response has no body, whatever its head says. `timeout` is in seconds. Raises
    UpstreamError, UpstreamTimeout.
    """
    try:
        async with asyncio.timeout(timeout):
            connection = await pool.open()
            gathering = _Gathering(connection, pool.limits.max_body_bytes)
            try:
                connection.begin(gathering, data, head_only=head_only, more=False)
                return await gathering.done
            finally:
                connection.abandon(gathering)
    except TimeoutError:
        raise UpstreamTimeout(timeout) from None


class _Gathering:
    """A Receiver (see upstream.connection) that keeps at most `max_bytes` of a body."""

    def __init__(self, connection: Connection, max_bytes: int) -> None:
        self.done: asyncio.Future[WorkerAnswer] = connection.loop.create_future()
        self._connection = connection
        self._max_bytes = max_bytes
        self._body = bytearray()

    def on_headers(self, status: int, headers: Headers, *, alone: bool, whole: bool) -> None:
        self._status, self._headers = status, headers

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._max_bytes:
            words = "the worker's answer is larger than server_limits.max_body_bytes"
            self.on_error(UpstreamError(words))

    def on_end(self, data: bytes) -> None:
        self._connection.abort()  # now: the connection is in the pool, and no call may take it
        self.on_body(data)
        if not self.done.done():
            self.done.set_result(WorkerAnswer(self._status, self._headers, bytes(self._body)))

    def on_error(self, error: GatewayError) -> None:
        if not self.done.done():
            self.done.set_exception(error)
