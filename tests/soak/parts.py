"""Processes of the soak's own, and the file that all look into."""

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from soak.facts import Fact

T = TypeVar("T")

LONGEST_LINE = 1 << 20
"""Bytes that are told at a time."""


class Part:
    """A process of the soak's own, to which a line may be written, and that tells Facts."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        assert running.stdin is not None
        assert running.stdout is not None
        self._orders, self._told = running.stdin, running.stdout
        self._listening: asyncio.Task[None] | None = None

    async def first(self, type_: type[T]) -> T:
        """What it tells before any Fact."""
        return msgspec.json.decode(await self._told.readline(), type=type_)

    def listen(self, take: Callable[[Fact], None]) -> None:
        self._listening = asyncio.create_task(self._listen(take))

    def write(self, content: msgspec.Struct) -> None:
        self._orders.write(msgspec.json.encode(content) + b"\n")

    async def finish(self) -> None:
        """Until it has ended, and told all."""
        self._orders.close()
        if self._listening is not None:
            await self._listening

    async def _listen(self, take: Callable[[Fact], None]) -> None:
        decoder = msgspec.json.Decoder(Fact)
        while line := await self._told.readline():
            take(decoder.decode(line))


@contextlib.asynccontextmanager
async def part(module: str, given: object) -> AsyncIterator[Part]:
    pipe = asyncio.subprocess.PIPE
    arguments = (sys.executable, "-m", module, msgspec.json.encode(given).decode())
    running = await asyncio.create_subprocess_exec(
        *arguments, stdin=pipe, stdout=pipe, limit=LONGEST_LINE, env=environment()
    )
    try:
        yield Part(running)
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()


def environment() -> dict[str, str]:
    """So that modules of the tests are found by all that are started."""
    tests = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}


@contextlib.contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """The gateway's file, which goes on being written."""
    db = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5.0)
    try:
        yield db
    finally:
        db.close()
