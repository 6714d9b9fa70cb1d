"""A worker that answers only when a test lets it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

ANSWER = b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}'


class Patient(msgspec.Struct, eq=False):
    """`asked` is set by the first request; all responses wait until `free` is set."""

    worker: ScriptedWorker
    asked: asyncio.Event
    free: asyncio.Event

    @property
    def url(self) -> str:
        return self.worker.url


@asynccontextmanager
async def patient(answer: bytes = ANSWER) -> AsyncIterator[Patient]:
    asked, free = asyncio.Event(), asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            asked.set()
            await free.wait()
            await connection.write(answer_of(answer))

    async with ScriptedWorker(script) as worker:
        yield Patient(worker, asked, free)
        free.set()
