"""Waits that a cancellation does not cut short: what was begun has to be finished."""

import asyncio
import logging
from collections.abc import Coroutine

from gateway import StorageError

log = logging.getLogger("gateway.runtime")


async def finished(task: "asyncio.Task[None]") -> None:
    """Wait until the task is over, however it ends; if cancelled, raise that only then."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def finish(work: Coroutine[None, None, None]) -> None:
    """Run `work` to its end, like `finished`. Raises what it raises."""
    task = asyncio.create_task(work)
    await finished(task)
    if not task.cancelled():
        task.result()


class Keeping:
    """Stores in the background: a slow disk delays no decision."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, storing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(_stored(storing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait until all is stored, or could not be."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _stored(storing: Coroutine[None, None, None]) -> None:
    try:
        await storing
    except StorageError as error:  # it is known until the next restart
        log.warning("what the runtimes learn cannot be stored now: %s", error)
