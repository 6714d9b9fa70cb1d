"""What has to be done from time to time: signs of life, leases, deadlines, old results."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway import Database, Storage, StorageError
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.changes import (
    SLICE,
    End,
    Found,
    delete_expired,
    expire,
    forget_submissions,
    requeue_of,
)
from gateway_plugins.batch.queue.holders import LEFT, Ended, Holder
from gateway_plugins.batch.queue.submission import KEPT

log = logging.getLogger("gateway.batch")

LOOK = 2.0
"""Seconds between two looks for ended processes, and for deadlines that have passed."""

CLEAN = 60.0
"""Seconds between two deletions of old results."""


class Upkeep:
    """`freed` is called when items were queued again, `expired` with those that have expired."""

    def __init__(
        self,
        storage: Storage,
        database: Path | None,
        options: Options,
        freed: Callable[[int], None],
        expired: Callable[[list[Found]], None],
    ) -> None:
        self.holder = Holder(database)
        self._storage = storage
        self._options = options
        self._others = Ended(database, options.lease)
        self._freed = freed
        self._expired = expired

    async def begin(self) -> None:
        """Register this process, and queue again what ended ones have left.

        Raises StorageError.
        """
        await self._storage.write(self.holder.begin)
        await self.take_over()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_every(self._options.lease / 6, self.beat))
            group.create_task(_every(LOOK, self.look))
            group.create_task(_every(CLEAN, self.clean))

    async def beat(self) -> None:
        """Say that this process is alive; register again if others took it for ended."""
        if not await self._storage.write(self.holder.beat):
            log.warning("this process was taken for ended: the items that it ran run again")
            await self._storage.write(self.holder.assure)

    async def look(self) -> None:
        """Take over the items of ended processes, and end those that are too late."""
        await self.take_over()
        while found := await self._storage.write(self._expire):
            self._expired(found)
            if len(found) < SLICE:
                break

    async def take_over(self) -> None:
        own = self.holder.number
        now = time.monotonic()
        while taken := await self._storage.write(lambda db: self._others.take_over(db, own, now)):
            self._freed(taken)

    def _expire(self, db: Database) -> list[Found]:
        now = time.time()
        return expire(db, End(now, now + self._options.keep_results))

    async def clean(self) -> None:
        """Delete results that are kept no longer."""
        now = time.time()
        while await self._storage.write(lambda db: delete_expired(db, now)) == SLICE:
            pass
        await self._storage.write(lambda db: forget_submissions(db, now - KEPT))

    async def end(self) -> None:
        """Queue this process's own items again, and remove its row."""
        own = self.holder.number
        with contextlib.suppress(StorageError):
            while await self._storage.write(lambda db: requeue_of(db, own, LEFT)):
                pass
            await self._storage.write(self.holder.end)
        self.holder.close()


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except StorageError as error:
            log.warning("the queue could not be looked after now: %s", error)
