"""Exchanges over real sockets: bodies that stream, answers that come early, in pieces or not."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from raw_client import CutShort, RawAnswer, RawClient, head_of

from gateway.config import Limits
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of

OK = answer_of(b"{}")
MIB = 1 << 20
CHUNKED = (b"transfer-encoding", b"chunked")

Script = Callable[[ScriptedConnection], Awaitable[None]]


class Setting:
    """A gateway before one scripted worker, and the ways to ask it."""

    def __init__(self, live: Live, worker: ScriptedWorker) -> None:
        self.live = live
        self.worker = worker

    def client(self) -> RawClient:
        return RawClient(*self.live.server.address)

    async def ask(self, method: str = "POST", target: str = "/v1/completions") -> RawAnswer:
        async with self.client() as client:
            return await client.ask(method, target)


@pytest.fixture
def before(gateway_for: GatewayFor) -> Callable[[bytes | Script], "Setting"]:
    """Starts a gateway before a worker with this script."""

    @asynccontextmanager
    async def start(script: bytes | Script) -> AsyncIterator[Setting]:
        async with ScriptedWorker(script) as worker:
            limits = Limits(max_body_bytes=1 << 30)
            yield Setting(await gateway_for(workers=(worker.url,), limits=limits), worker)

    return start


def saying(*answers: bytes, then_close: bool = False) -> Script:
    """Gives one answer for each request."""

    async def script(connection: ScriptedConnection) -> None:
        for answer in answers:
            await connection.read_request()
            await connection.write(answer)
        if not then_close:
            await connection.reader.read()

    return script
