"""The database file that the gateway uses, and its log: never the log of one with another file.

SQLite finds the log (the -wal) of a file by its name alone. If somebody puts another file in the
place of the database while the gateway runs, such as a backup, the log of the file before is still
beside it, and a new connection would read the pages of both as one database:
https://www.sqlite.org/howtocorrupt.html, "unlinking or renaming a database file while in use".
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import StorageError
from gateway.storage.sqlite.faults import FileGone, is_busy

log = logging.getLogger("gateway.storage")

Identity = tuple[int, int]
"""Device and inode."""

NO_FILE: Identity = (-1, -1)

LOG_SUFFIXES = ("-wal", "-shm")


class FileInUse:
    """The file that the writer has opened at `path`. All methods may be called in any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: Identity | None = None
        self._log: Identity | None = None

    def note(self) -> None:
        """Remember the file and its log: the writer has them open."""
        with self._lock:
            self._file, self._log = identity(self._path), identity(_beside(self._path, "-wal"))

    @contextlib.contextmanager
    def forgotten_if_closed(self) -> Iterator[None]:
        """Forget the file if opening it fails: a new one may get the inode of one that is gone."""
        try:
            yield
        except StorageError as error:
            if self._file is not None and not is_busy(error):
                self._file = NO_FILE
            raise

    @property
    def is_there(self) -> bool:
        """Whether the file at the path is the one that the writer has, if it has any."""
        return self._file is None or identity(self._path) == self._file

    def check(self) -> None:
        """Raise FileGone if there is another file at the path than the one that the writer has."""
        if not self.is_there:
            raise FileGone("the database file was deleted or replaced")

    def put_log_aside(self) -> None:
        """If the file was replaced, move the log of the file before out of the way.

        A log that is not the one of the file before came with the new file, and stays. Raises
        OSError if the log cannot be moved.
        """
        with self._lock:
            known, self._log = self._log, None
            found = identity(self._path)
            if None in (known, found) or found == self._file:
                return
            if identity(_beside(self._path, "-wal")) == known:
                self._move()

    def _move(self) -> None:
        aside = f"{self._path.name}.replaced-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
        for suffix in LOG_SUFFIXES:
            part = _beside(self._path, suffix)
            if part.exists():
                part.rename(self._path.with_name(aside + suffix))
        log.error(
            "the database %s was replaced by another file while the gateway was using it; the "
            "gateway goes on with the new file, and has moved the log of the one before to %s-wal",
            self._path,
            self._path.with_name(aside),
        )


def identity(path: Path | str) -> Identity | None:
    """Return what tells a file from every other one; None if there is none at `path`."""
    try:
        found = os.stat(path)  # noqa: PTH116  runs after each commit; twice as fast as Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
