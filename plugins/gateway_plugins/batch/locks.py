"""Files whose lock says that a process lives: it ends with the process, however that ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def hold(path: Path) -> int:
    """Create a file and hold its exclusive `flock`; return the descriptor, which keeps it.

    Raises OSError.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # somebody found it free before it was locked, and has deleted it


def release(path: Path, fd: int) -> None:
    """Delete the file, and let go of its lock."""
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(fd)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of this file, or there is no such file."""
    with _tried(path) as is_locked:
        return is_locked


def delete_if_free(path: Path) -> None:
    """Delete the file unless somebody holds its lock."""
    with _tried(path) as is_locked:
        if is_locked:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _tried(path: Path) -> Iterator[bool]:
    """Hold the lock of a file meanwhile; yield False if somebody else does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_locked = True
    except OSError:
        is_locked = False
    try:
        yield is_locked
    finally:
        os.close(fd)
