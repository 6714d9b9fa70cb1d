"""An engine holds the files that it has loaded, so that no upload removes them meanwhile."""

import asyncio
import fcntl
import logging
import os
from pathlib import Path

from gateway_plugins.runtime.drivers.driver import Driver, Engine, Launch, Log, StartFailed

log = logging.getLogger("gateway.runtime")


class Using:
    """Starts engines by `inner`; until one has ended, its snapshot has a shared `flock`."""

    def __init__(self, inner: Driver) -> None:
        self._inner = inner
        self._held: set[asyncio.Task[None]] = set()

    async def start(self, launch: Launch, log: Log) -> Engine:
        held = None if launch.snapshot is None else hold(launch.snapshot)
        try:
            engine = await self._inner.start(launch, log)
        except BaseException:
            release(held)
            raise
        if held is not None:
            task = asyncio.create_task(_release_after(engine, held))
            self._held.add(task)
            task.add_done_callback(self._held.discard)
        return engine

    async def clear(self, runtime: str) -> None:
        await self._inner.clear(runtime)


async def _release_after(engine: Engine, held: int) -> None:
    try:
        await engine.ended()
    finally:
        release(held)


def hold(snapshot: Path) -> int | None:
    """Lock a folder against its removal; return what `release` takes, None: there is no lock.

    Raises StartFailed if the folder is just being removed.
    """
    try:
        held = os.open(snapshot, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None  # the engine downloads it, or says what is missing
    except OSError as error:
        log.warning("%s is not locked for its engine: %s", snapshot, error)
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        is_there = snapshot.exists()
    except BlockingIOError:
        is_there = False
    except OSError as error:
        log.warning("%s is not locked for its engine: %s", snapshot, error)
        release(held)
        return None
    if not is_there:
        release(held)
        raise StartFailed(f"{snapshot} is being removed: an upload has replaced it")
    return held


def release(held: int | None) -> None:
    """Let go what `hold` has returned."""
    if held is not None:
        os.close(held)
