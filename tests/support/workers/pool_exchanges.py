"""A worker's connections without a gateway: exchanges made by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.plugins.recording_plugin import PATIENCE, until

from gateway.config import ServerLimits
from gateway.errors import GatewayError
from gateway.headers import Headers
from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of
from gateway.upstream.connection import Connection
from gateway.upstream.pool import MIN_KEEPALIVE, Pool

GET = b"GET / HTTP/1.1\r\nhost: worker\r\n\r\n"
OK = answer_of(b"{}")


class Taking:
    """A Receiver that keeps the body."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.body = b""

    def on_headers(self, status: int, headers: Headers, *, alone: bool, whole: bool) -> None:
        self.status = status

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_end(self, data: bytes) -> None:
        self.ended.set_result(self.body + data)

    def on_error(self, error: GatewayError) -> None:
        self.ended.set_exception(error)


async def exchange(connection: Connection) -> bytes:
    receiver = Taking()
    connection.begin(receiver, GET, head_only=False, more=False)
    return await receiver.ended


async def gone(connection: ScriptedConnection) -> None:
    """Wait until the worker's side sees it closed. Raises TimeoutError where it stays."""
    async with asyncio.timeout(PATIENCE):
        await connection.wait_closed()


def address_of(worker: ScriptedWorker) -> tuple[str, int]:
    return "127.0.0.1", int(worker.url.rpartition(":")[2])


@asynccontextmanager
async def pool_for(
    worker: ScriptedWorker,
    *,
    keepalive: float = 60,
    shortest: float = MIN_KEEPALIVE,
    host: str = "127.0.0.1",
) -> AsyncIterator[Pool]:
    """A pool that is closed at the block's end, and empty then."""
    port = address_of(worker)[1]
    pool = Pool(
        host, port, limits=ServerLimits(), connect=5, keepalive=keepalive, shortest=shortest
    )
    yield pool
    pool.close()
    await until(lambda: len(pool) == 0)
