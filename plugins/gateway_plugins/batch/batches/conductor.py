"""Chooses the batches that this process works on, a few at a time."""

import asyncio
import logging
import threading
import time

from gateway import Storage, StorageError
from gateway_plugins.batch.batches import rows
from gateway_plugins.batch.batches.gentle import Stopped
from gateway_plugins.batch.batches.life import Life, Queue, Tools
from gateway_plugins.batch.batches.rows import Batch
from gateway_plugins.batch.files.files import Files
from gateway_plugins.batch.options import Options

log = logging.getLogger("gateway.batch")

AT_ONCE = 4
"""Batches that one process works on at a time; those whose items just run do not count."""

LOOK, LEAST_PAUSE = 1.0, 0.1
"""Seconds between two looks for work: if nobody says that there is some, and at least."""

RETRY = 5.0
"""Seconds until a batch is tried again after a failure, a full disk for instance."""

CLEAN = 60.0
"""Seconds between two deletions of old batches."""

CLEANED = 500
"""Batches that one transaction deletes."""


class Conductor:
    """Works on batches between `run` and its cancellation."""

    def __init__(
        self,
        storage: Storage,
        files: Files,
        options: Options,
        queue: Queue,
    ) -> None:
        self._stopping = threading.Event()
        is_stopped = self._stopping.is_set
        self._tools = Tools(storage, files, options, queue, is_stopped)
        self._holder = queue.holder
        self._wanted = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._later: dict[int, float] = {}
        self._cleaned = 0.0

    def wake(self) -> None:
        """Look for work soon: a batch is new, is to be cancelled, or items of one have ended."""
        self._wanted.set()

    async def run(self) -> None:
        """Work until cancelled; what is unfinished then is done by another process, or later."""
        try:
            while True:
                self._wanted.clear()
                await self._look()
                await self._pause()
        finally:
            self._stopping.set()
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks.values())

    async def _pause(self) -> None:
        await asyncio.sleep(LEAST_PAUSE)
        try:
            async with asyncio.timeout(LOOK):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _look(self) -> None:
        """Begin to work on what is there, and delete what is old."""
        try:
            await self._begin()
            if time.monotonic() - self._cleaned >= CLEAN:
                self._cleaned = time.monotonic()
                await self._clean()
        except StorageError as error:
            log.warning("batches cannot be looked after now: %s", error)

    async def _begin(self) -> None:
        limit = AT_ONCE + len(self._later)
        free = AT_ONCE - len(self._tasks)
        if free <= 0:
            return
        now = time.monotonic()
        self._later = {number: then for number, then in self._later.items() if then > now}
        found = await self._tools.storage.read(lambda db: rows.due(db, self._holder(), limit))
        known = self._tasks.keys() | self._later.keys()
        for number in [one for one in found if one not in known][:free]:
            task = asyncio.create_task(self._conduct(number))
            self._tasks[number] = task
            task.add_done_callback(lambda _, number=number: self._done(number))  # type: ignore[misc]

    def _done(self, number: int) -> None:
        del self._tasks[number]
        self.wake()

    async def _conduct(self, number: int) -> None:
        """Work on a batch as far as possible now, unless another process does."""
        try:
            holder, storage = self._holder(), self._tools.storage
            batch = await storage.write(lambda db: rows.claim(db, number, holder))
            if batch is not None:
                await self._live(batch)
        except (StorageError, OSError) as error:
            log.warning("batch %d has to wait for %.0f s: %s", number, RETRY, error)
            self._later[number] = time.monotonic() + RETRY
        except Exception:
            log.exception("batch %d has to wait for %.0f s", number, RETRY)
            self._later[number] = time.monotonic() + RETRY

    async def _live(self, batch: Batch) -> None:
        try:
            await Life(self._tools, batch).run()
        except (rows.Lost, Stopped):
            log.info("another process goes on with batch %s", batch.id)
        finally:
            await self._tools.storage.write(lambda db: rows.release(db, batch))

    async def _clean(self) -> None:
        before = time.time() - self._tools.options.keep_files
        write = self._tools.storage.write
        while await write(lambda db: rows.delete_ended(db, before, CLEANED)) == CLEANED:
            pass
