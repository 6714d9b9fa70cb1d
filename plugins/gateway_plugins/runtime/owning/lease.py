"""One gateway at a time owns the runtimes that share a database: a lock on a file beside it."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator

from gateway import Host

log = logging.getLogger("gateway.runtime")

LOOK = 1.0
"""Seconds between two tries to get the lease."""


class Lease:
    """The kernel frees the lock of a gateway that is killed. `is_held`: this gateway has it."""

    def __init__(self, gateway: Host) -> None:
        path = gateway.storage.path
        in_memory = gateway.config.storage.in_memory
        self._path = None if in_memory else path.with_name(f"{path.name}-runtimes.lock")
        self.is_held = False

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait for the lease, and keep it until the exit."""
        if self._path is None:
            self.is_held = True
            yield
            return
        fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            await self._wait(fd)
            self.is_held = True
            yield
        finally:
            self.is_held = False
            os.close(fd)

    async def _wait(self, fd: int) -> None:
        is_told = False
        while not _try_lock(fd):
            if not is_told:
                log.warning("another gateway owns the runtimes; this one waits (%s)", self._path)
                is_told = True
            await asyncio.sleep(LOOK)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
