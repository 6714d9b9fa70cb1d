"""What has to be done from time to time: signs of life, leases, deadlines, old results."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec

from gateway import Database, Storage, StorageError
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.changes import (
    SLICE,
    End,
    Found,
    delete_expired,
    drop,
    expire,
    forget_submissions,
    give_up,
    requeue_of,
)
from gateway_plugins.batch.queue.holders import LEFT, Holder, Others
from gateway_plugins.batch.queue.items import ItemError, Running
from gateway_plugins.batch.queue.reading import running
from gateway_plugins.batch.queue.submission import KEPT

log = logging.getLogger("gateway.batch")

LOOK = 2.0
"""Seconds between two looks for ended processes, at most, and for deadlines that have passed."""

CLEAN = 60.0
"""Seconds between two deletions of old results."""

BEATS = 6
"""Signs of life in the time of a lease."""

LOST = ItemError("not_stored", "how a call for it ended could not be stored")


class Telling(msgspec.Struct, frozen=True):
    """What upkeep asks, and whom it tells.

    `in_hand` returns the attempts of this process that run or have ended. `freed` is called when
    items were queued again, `expired` with those that have expired, `dropped` with those whose
    model is `unloadable`. `reasons` returns why models cannot be loaded now, by their names, and
    `unloadable` those of them for which waiting is in vain, and since when (Unix seconds) that is
    known.
    """

    in_hand: Callable[[], set[Running]]
    freed: Callable[[int], None]
    expired: Callable[[list[Found]], None]
    dropped: Callable[[list[Found]], None]
    reasons: Callable[[], Mapping[str, str]]
    unloadable: Callable[[], Mapping[str, tuple[str, float]]]


class Upkeep:
    """Looks after the queue for the process that has `holder`."""

    def __init__(
        self, storage: Storage, holder: Holder, others: Others, options: Options, telling: Telling
    ) -> None:
        self._storage = storage
        self._holder = holder
        self._others = others
        self._options = options
        self._telling = telling
        self._missing: set[Running] = set()

    async def begin(self) -> None:
        """Register this process, and queue again what ended ones have left.

        If the file cannot be used now, the next claim registers it.
        """
        try:
            await self._storage.write(self._holder.ensure)
            await self.take_over()
        except StorageError as error:
            log.warning("the queue cannot be used yet: %s", error)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            beat = self._options.lease / BEATS
            group.create_task(_every(beat, self.beat))
            group.create_task(_every(min(beat, LOOK), self.take_over))
            group.create_task(_every(LOOK, self.expire))
            group.create_task(_every(LOOK, self.drop))
            group.create_task(_every(LOOK, self.find_missing))
            group.create_task(_every(CLEAN, self.clean))

    async def beat(self) -> None:
        """Say that this process is alive; it registers anew if others took it for ended."""
        if not await self._storage.write(self._holder.beat):
            log.warning("this process was taken for ended: the items that it ran run again")

    async def take_over(self) -> None:
        """Queue the items of ended processes again."""
        own, now = self._holder.number, time.monotonic()
        while taken := await self._storage.write(lambda db: self._others.take_over(db, own, now)):
            self._telling.freed(taken)

    async def expire(self) -> None:
        """End the queued items whose deadline has passed."""
        reasons = self._telling.reasons()
        while found := await self._storage.write(lambda db: expire(db, self._end(), reasons)):
            self._telling.expired(found)
            if len(found) < SLICE:
                break

    async def drop(self) -> None:
        """End the queued items whose model will not be loaded, however long they wait."""
        for model, (reason, since) in self._telling.unloadable().items():
            while found := await self._storage.write(partial(self._drop, model, reason, since)):
                self._telling.dropped(found)

    def _drop(self, model: str, reason: str, since: float, db: Database) -> list[Found]:
        return drop(db, model, reason, since, self._end())

    async def find_missing(self) -> None:
        """Queue items again that are this process's by their rows, but that it does not run.

        A claim may be committed and not begun yet, so an attempt has to be missing twice.
        """
        own = self._holder.number
        missing = await self._storage.read(lambda db: running(db, own))
        missing -= self._telling.in_hand()
        lost, self._missing = missing & self._missing, missing
        if lost:
            most = self._options.max_attempts
            found = await self._storage.write(lambda db: give_up(db, lost, LOST, most, self._end()))
            log.error("%d items were queued again: how they ended was not stored", len(found))
            self._telling.freed(len(found))

    def _end(self) -> End:
        now = time.time()
        return End(now, now + self._options.keep_results)

    async def clean(self) -> None:
        """Delete results that are kept no longer."""
        now = time.time()
        for delete in (
            lambda db: delete_expired(db, now),
            lambda db: forget_submissions(db, now - KEPT),
        ):
            while await self._storage.write(delete) == SLICE:
                pass

    async def end(self) -> None:
        """Queue this process's own items again, and remove its row."""

        def requeue(db: Database) -> int:
            return len(requeue_of(db, self._holder.number, LEFT))

        with contextlib.suppress(StorageError):
            while await self._storage.write(requeue):
                pass
            await self._storage.write(self._holder.end)
        self._holder.close()


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat the work: an error must not end what keeps the leases."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except StorageError as error:
            log.warning("the queue could not be looked after now: %s", error)
        except Exception:
            log.exception("the queue could not be looked after")
