"""Reads the key file: complete, consistent, and at most MAX_BYTES."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from gateway import ConfigError

MAX_BYTES = 64 * 1024 * 1024


class Stamp(NamedTuple):
    """Metadata that differs if the file has been replaced or written to."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Read(NamedTuple):
    """A file's bytes and stamp; `mode` has its permissions."""

    data: bytes
    stamp: Stamp
    mode: int


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file. Raises ConfigError if it is missing or not a regular file."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
        raise ConfigError(f"{path}: is not a file")
    return Stamp.of(found)


def read(path: Path) -> Read:
    """Read a file. Raises ConfigError if that fails, or the file is too large or being written."""
    stamp_of(path)
    try:
        with path.open("rb") as stream:
            before = Stamp.of(os.fstat(stream.fileno()))
            data = stream.read(MAX_BYTES + 1)
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise unreadable(path, error) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: has more than {MAX_BYTES} bytes")
    if before != Stamp.of(after) or len(data) != before.size:
        raise ConfigError(f"{path}: is being written to")
    return Read(data, before, stat.S_IMODE(after.st_mode))


def unreadable(path: Path, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else None
    return ConfigError(f"{path}: cannot be read: {reason or error}")
