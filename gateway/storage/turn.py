"""Turns of several processes that write one file."""

import contextlib
import fcntl
import os
from pathlib import Path


class Turn:
    """Writers of different processes come one after another: `with turn:`, in the writer's thread.

    SQLite alone has a writer that finds the file locked sleep, 1 ms at first and then up to 100 ms,
    and look again, while others take the lock that it missed. The kernel wakes who waits here as
    soon as the other is done, and ends the turn of a process that is killed. Where the lock cannot
    be had, or there is no `path`, SQLite's own still keeps writers apart.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd: int | None = None

    def __enter__(self) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._fd is None:
                    self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
                fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
