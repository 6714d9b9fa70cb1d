"""A content that is being written: to a path of its own, by a thread, in large pieces."""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway import CallError

log = logging.getLogger("gateway.batch")

PIECE = 256 * 1024
"""Bytes that are gathered before they are written."""

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class DiskFull(CallError):
    """There is no room for the content. The `openai` client does not send it again."""

    status = 507
    code = "disk_full"


class FilesUnavailable(CallError):
    """The folder of files cannot be read or written now."""

    status = 503
    code = "files_unavailable"


class Part:
    """Writes a content to `path`; deleted when the block ends, unless it was moved from there.

    `size` is the number of bytes so far. Methods raise DiskFull and FilesUnavailable.
    """

    def __init__(self, path: Path, threads: ThreadPoolExecutor) -> None:
        self.path = path
        self.size = 0
        self._threads = threads
        self._gathered: list[bytes] = []
        self._waiting = 0
        self._fd: int | None = None
        self._writing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._open)
        except BaseException:
            await self._end()
            raise
        return self

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    async def write(self, data: bytes) -> None:
        """Append `data`."""
        self.size += len(data)
        self._gathered.append(data)
        self._waiting += len(data)
        if self._waiting >= PIECE:
            await self._flush()

    async def _flush(self) -> None:
        data, self._gathered, self._waiting = b"".join(self._gathered), [], 0
        await self._run(lambda: self._write(data))

    def _write(self, data: bytes) -> None:
        assert self._fd is not None
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]

    async def finish(self) -> None:
        """Write what is left, and all to the disk."""
        await self._flush()
        await self._run(self._sync)

    def _sync(self) -> None:
        assert self._fd is not None
        os.fsync(self._fd)

    async def _run(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread. It goes on if the task is cancelled: `_end` waits for it."""
        loop = asyncio.get_running_loop()
        self._writing = writing = loop.run_in_executor(self._threads, work)
        try:
            await asyncio.shield(writing)
        except OSError as error:
            raise refusal(error) from error

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        """Close and delete, after what the thread does now."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()  # its task was cancelled, so nobody else has asked
        ending = asyncio.get_running_loop().run_in_executor(self._threads, self._delete)
        await asyncio.shield(ending)

    def _delete(self) -> None:
        with contextlib.suppress(OSError):
            if self._fd is not None:
                os.close(self._fd)
            self.path.unlink()


def refusal(error: OSError) -> CallError:
    """Return what a caller is told of an error of the folder."""
    if error.errno in FULL:
        message = "there is no room on the disk for this file; nothing of it was kept"
        return DiskFull(message, headers=((b"x-should-retry", b"false"),))
    log.error("the folder of files: %s", error)
    return FilesUnavailable("the folder of files cannot be used now; the log says why")
