"""The file of the log of one start; everything here reads or writes the disk."""

import logging
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

log = logging.getLogger("gateway.runtime")

MOST_BYTES = 10_000_000
"""Bytes of a file. Of a longer log the beginning and the end are kept: `HEAD` and `TAIL`."""

HEAD = 1_000_000
TAIL = 4_000_000

MOST_STARTS = 20
"""Files of a model; the oldest are deleted."""

_STAMP = "%Y%m%d-%H%M%S"
_ODD = re.compile("[^A-Za-z0-9._-]")


class LogFile:
    """A new file in `folder`, which only its owner can read. Methods raise OSError."""

    def __init__(self, folder: Path, model: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._name = _ODD.sub("_", model)
        _prune(folder, self._name)
        self.path, self._descriptor = _create(folder, self._name)
        self._size = 0

    def append(self, data: bytes) -> None:
        if self._size + len(data) > MOST_BYTES:
            self._shorten()
        self._write(data)

    def close(self, reason: str | None) -> None:
        """Close the file; after a failed start its name gets the reason."""
        os.close(self._descriptor)
        if reason is not None:
            named = self.path.with_name(f"{self.path.stem}_{_ODD.sub('_', reason)}.log")
            self.path = self.path.rename(named)

    def _shorten(self) -> None:
        """Keep the beginning and the end: an engine that runs for weeks prints each request."""
        head = os.pread(self._descriptor, HEAD, 0)
        tail = os.pread(self._descriptor, TAIL, max(self._size - TAIL, HEAD))
        left_out = self._size - len(head) - len(tail)
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._size = 0
        self._write(head + b"\n... %d bytes are left out here ...\n" % left_out + tail)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]


def _create(folder: Path, name: str) -> tuple[Path, int]:
    """Create the file with the time of now in its name, or the next second that is free."""
    now = datetime.now(UTC)
    while True:
        path = folder / f"{now.strftime(_STAMP)}_{name}.log"
        try:
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            now += timedelta(seconds=1)


def _prune(folder: Path, name: str) -> None:
    """Delete old files of a model, so that there is room for one more."""
    reasons = "_(runtime|model|access|auth)_[a-z_]+"
    own = re.compile(rf"\d{{8}}-\d{{6}}_{re.escape(name)}({reasons})?\.log")
    found = sorted(one for one in folder.iterdir() if own.fullmatch(one.name))
    for old in found[: len(found) - MOST_STARTS + 1]:
        old.unlink(missing_ok=True)
