"""Bytes on their way to the file of an upload: written and synced by threads, in large pieces."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PIECE = 1024 * 1024
"""Bytes that are gathered before they are written."""

SYNC = 64 * 1024 * 1024
"""Bytes after which what was written is forced to the disk, while more is written."""

Update = Callable[[bytes], None]


class Writer:
    """Writes to `fd` from `offset` on, which says at any time how far it has written.

    `end_of_given` is how far it will have written once all that it was given is.

    `update` gets all bytes in order, in a thread. While one piece is written the next is gathered.
    Methods raise OSError: what was written before counts.
    """

    def __init__(
        self, fd: int, offset: int, threads: ThreadPoolExecutor, update: Update | None = None
    ) -> None:
        self.offset = offset
        self.end_of_given = offset
        self._fd = fd
        self._threads = threads
        self._update = update
        self._gathered: list[bytes] = []
        self._waiting = 0
        self._synced = offset
        self._writing: asyncio.Future[None] | None = None
        self._syncing: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Take in `data`; wait for earlier pieces to be written if there is much."""
        self.end_of_given += len(data)
        self._gathered.append(data)
        self._waiting += len(data)
        if self._waiting >= PIECE:
            await self._pass_on()

    async def _pass_on(self) -> None:
        await self._settle()
        if self._gathered:
            data, self._gathered, self._waiting = b"".join(self._gathered), [], 0
            self._writing = self._run(lambda: self._write(data))

    async def _settle(self) -> None:
        """Wait for what is being written, and sync behind it if that is much."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None
        if self.offset - self._synced >= SYNC:
            if self._syncing is not None:
                await asyncio.shield(self._syncing)
            self._synced = self.offset
            self._syncing = self._run(self._sync)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            count = os.pwrite(self._fd, left, self.offset)
            self.offset += count
            left = left[count:]
        if self._update is not None:
            self._update(data)

    def _sync(self) -> None:
        os.fdatasync(self._fd)

    async def finish(self) -> None:
        """Write what is left, and all to the disk."""
        await self._pass_on()
        await self._settle()
        if self._syncing is not None:
            await asyncio.shield(self._syncing)
        await asyncio.shield(self._run(lambda: os.fsync(self._fd)))

    async def end(self) -> None:
        """Wait until no thread is at work, however the writing went. Raises nothing."""
        for future in (self._writing, self._syncing):
            if future is not None:
                with contextlib.suppress(OSError):
                    await asyncio.shield(future)

    def _run(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().run_in_executor(self._threads, work)
