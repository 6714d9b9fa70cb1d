"""A lock for several processes that write one file."""

import contextlib
import fcntl
import os
from pathlib import Path


class WriteLock:
    """Serializes writers of different processes: `with lock:`, in the writer's thread.

    With SQLite's own lock, a writer that finds the file locked sleeps for 1 ms, later for up to
    100 ms, and polls again, while others take the lock in between. With flock, the kernel wakes the
    next writer as soon as the lock is free, and releases the lock of a killed process. If the lock
    file cannot be locked, or `path` is None, SQLite's own lock still separates writers.
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
