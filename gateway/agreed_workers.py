"""The admin interface's changes of workers: kept, and the same in all processes of a gateway."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from gateway.kept_workers import KeptWorkers
from gateway.overlay import Change
from gateway.siblings import Siblings
from gateway.workers import Workers


class Agreed(msgspec.Struct, frozen=True):
    """All changes by worker, as one process knows them; those of the latest `since` hold.

    `since` is when the latest was made, in nanoseconds of time.monotonic_ns(), which is one clock
    in all processes of a machine; 0: none has been made since the gateway was started.
    """

    since: int = 0
    changes: Mapping[str, Change] = {}


class AgreedWorkers:
    """Makes changes one at a time over all processes. What is told is always all of them.

    So a process that did not hear of one has it with the next, or before it makes one itself.
    """

    def __init__(self, workers: Workers, kept: KeptWorkers, siblings: Siblings) -> None:
        self._workers = workers
        self._kept = kept
        self._siblings = siblings
        self._alone = asyncio.Lock()
        self._since = 0
        siblings.answer("workers", self._tell)
        siblings.answer("workers changed", self._hear)

    async def restore(self) -> None:
        """Take over what holds: in the database, and in the other processes."""
        self._workers.restore(await self._kept.load())
        await self._catch_up()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """While this lasts nobody else changes workers, and what others have changed holds here."""
        async with self._alone, self._siblings.turn("workers"):
            await self._catch_up()
            yield

    async def change(self, worker_id: str, change: Change) -> None:
        """Keep the change, make it, and have it made by the others; only while `changing`.

        One that cannot be kept is not made: raises sqlite3.Error or StorageUnavailable, and
        OSError where the TLS files of an added worker cannot be used.
        """
        alter = self._workers.alter(worker_id, change)
        await self._kept.keep(worker_id, change)
        alter()
        self._since = time.monotonic_ns()
        await self._siblings.ask("workers changed", await self._tell(b""))

    async def _catch_up(self) -> None:
        for told in await self._siblings.ask("workers"):
            await self._hear(told)

    async def _tell(self, _: bytes) -> bytes:
        return msgspec.msgpack.encode(Agreed(self._since, self._workers.overlay.changes))

    async def _hear(self, told: bytes) -> bytes:
        agreed = msgspec.msgpack.decode(told, type=Agreed)
        if agreed.since > self._since:
            self._workers.follow(agreed.changes)
            self._since = agreed.since
        return b""
