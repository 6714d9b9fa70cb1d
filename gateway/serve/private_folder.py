"""The folder that the processes of one gateway share: sockets, locks, and tables in memory.

The folder is locked (flock) by an open file that all processes inherit from the first one, so that
the lock ends with the last of them, however they end. Programs that clean up temporary files leave
a locked folder alone. A folder without a lock was left by a gateway that was killed.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEMORY = Path("/dev/shm")
"""A Linux file system that is kept in memory, not on a disk."""

PREFIX = "gateway-"

MARK = "processes-of-one-gateway"
"""An empty file in each of these folders: other programs may use the same prefix."""

TRIES = 10
"""Folders that are made one after the other: another gateway may take one for one that was left."""


class PrivateFolder:
    """A new folder (0700), in memory if possible, because a write to a page that is being written
    to a disk may block.

    Raises OSError if it cannot be created, or if its file system has no locks.
    """

    def __init__(self) -> None:
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        for _ in range(TRIES):
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=memory))
            lock = _locked(self.path, fcntl.LOCK_SH)
            if lock is not None:
                self._lock = lock
                (self.path / MARK).touch()
                return
            shutil.rmtree(self.path, ignore_errors=True)
        raise OSError(errno.ENOLCK, "a folder cannot be locked (flock)", str(self.path.parent))

    def close(self) -> None:
        """Remove the folder, unless another process still has it."""
        os.close(self._lock)
        _remove_unused(self.path)


@contextlib.contextmanager
def private_folder() -> Iterator[PrivateFolder]:
    """Create the folder of this gateway, and remove those of gateways that were killed."""
    folder = PrivateFolder()
    try:
        for path in folder.path.parent.glob(PREFIX + "*"):
            if path != folder.path and (path / MARK).exists():
                _remove_unused(path)
        yield folder
    finally:
        folder.close()


def _remove_unused(path: Path) -> None:
    lock = _locked(path, fcntl.LOCK_EX)
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(path: Path, kind: int) -> int | None:
    """Open and lock a folder of ours.

    None if a process holds another kind of lock, if the folder is gone, or if it is not ours.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if found.st_uid == os.geteuid() and os.path.samestat(found, path.stat()):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
