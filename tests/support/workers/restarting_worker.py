"""A worker that is killed and comes back on the same port, and answers everything in between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Literal, cast

from support.workers.killed_server import Connection, Mortal

from gateway.testing import answer_of


class Restarting(Mortal[Literal["well", "killed"]]):
    """`calls` counts the requests other than probes; all get 200."""

    def __init__(self) -> None:
        super().__init__("well", lambda: _Answering(self))
        self.calls = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Answering(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, worker: Restarting) -> None:
        self._worker = worker
        self._open: set[Connection] = worker.connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._worker.calls += data.startswith(b"POST /v1")
        self.transport.write(answer_of(b"{}"))

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)


@contextlib.asynccontextmanager
async def restarting() -> AsyncIterator[Restarting]:
    """One that runs, and is killed at the end."""
    worker = Restarting()
    await worker.start()
    try:
        yield worker
    finally:
        worker.kill()
