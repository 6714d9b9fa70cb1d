"""One task of one process: begins what the rows ask for, and ends what they ask no more."""

import asyncio
import contextlib
import fcntl
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from gateway import Database, StorageError
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.items import CANCELED, End
from gateway_plugins.evaluations.rows.jobs import RunState
from gateway_plugins.evaluations.running.carrier import Carrier, Tools

log = logging.getLogger("gateway.evaluations")

LOOK = 1.0
"""Seconds between two looks at the rows, if nothing happens."""

FAILED = 2.0
"""Seconds until the next try of an evaluation if the database could not be used."""

CLEAN = 600.0
"""Seconds between two looks for what is not kept any more."""

CANCELED_AT_ONCE = 500


class Conductor:
    """Carries all evaluations of a database, in one of the processes that have it open.

    `ended` is called with the last state of each evaluation. `counts` are the items of those that
    have not ended, by their states.
    """

    def __init__(self, tools: Tools, ended: Callable[[RunState], None]) -> None:
        self._tools = tools
        self._ended = ended
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._wanted = asyncio.Event()
        self._clean_at = 0.0
        self.counts: dict[str, int] = {}

    def wake(self) -> None:
        """Look at the rows at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Conduct until cancelled; no child process is left then."""
        async with self._alone():
            try:
                while True:
                    self._wanted.clear()
                    await self._look()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK):
                            await self._wanted.wait()
            finally:
                for task in self._tasks.values():
                    task.cancel()
                if self._tasks:
                    await asyncio.wait(self._tasks.values())
                self.counts = {}

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Wait until no other process conducts; a lock of the kernel goes with its process."""
        with _opened(self._tools.places.lock) as opened:
            while not _take(opened):  # noqa: ASYNC110  # no event tells that a lock is free
                await asyncio.sleep(LOOK)
            yield

    async def _look(self) -> None:
        try:
            found = await self._tools.storage.read(jobs.unfinished)
            self.counts = await self._tools.storage.read(items.all_counts)
            await self._cancel_items()
            await self._clean()
        except StorageError as error:
            log.warning("evaluations cannot be looked at now: %s", error)
            return
        except Exception:
            log.exception("evaluations cannot be looked at now")
            return
        self._begin(set(found))

    def _begin(self, unfinished: set[int]) -> None:
        for number in unfinished - self._tasks.keys():
            task = asyncio.create_task(self._carry(number))
            self._tasks[number] = task
        for number in self._tasks.keys() - unfinished:
            self._tasks[number].cancel()

    async def _carry(self, number: int) -> None:
        try:
            await Carrier(self._tools, number, self._ended).carry()
        except StorageError as error:
            log.warning("an evaluation cannot go on now: %s", error)
            await asyncio.sleep(FAILED)
        finally:
            del self._tasks[number]

    async def _cancel_items(self) -> None:
        """Take the items of canceled evaluations out of the queue."""
        tools = self._tools
        found = await tools.storage.read(lambda db: items.to_cancel(db, CANCELED_AT_ONCE))
        for run, place, job_id, item in found:
            await tools.queue.cancel(item.id(job_id, place))
            end = End(place=item.place, state=CANCELED, code="canceled", error="canceled")
            await tools.storage.write(lambda db, n=run, e=end: items.end(db, n, [e]))  # type: ignore[misc]

    async def _clean(self) -> None:
        """Delete what is not kept any more."""
        if time.monotonic() < self._clean_at:
            return
        tools, now = self._tools, time.time()
        options = tools.options

        def change(db: Database) -> tuple[list[tuple[str, int]], list[str]]:
            return (
                items.forget(db, now - options.keep_items),
                jobs.forget(db, now - options.keep_records),
            )

        runs, whole = await tools.storage.write(change)
        for job_id, place in runs:
            await asyncio.to_thread(tools.places.forget, job_id, place)
        for job_id in whole:
            await asyncio.to_thread(tools.places.forget, job_id)
        if not runs and not whole:
            self._clean_at = time.monotonic() + CLEAN


def _opened(file: Path) -> IO[str]:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.open("w")


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
