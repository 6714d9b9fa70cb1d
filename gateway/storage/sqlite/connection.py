"""The Database of this engine: one connection to the file."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from gateway.storage.database import NO_PARAMS, Row, Value
from gateway.storage.sqlite.faults import FileGone, storage_error
from gateway.storage.sqlite.file_in_use import identity
from gateway.storage.sqlite.rows import inserts
from gateway.storage.sqlite.write_lock import WriteLock

Mode = Literal["mode=rw", "mode=ro", "immutable=1"]
"""How the file is opened; as immutable, SQLite creates no files beside it."""

LOCK_TIMEOUT = 0.5
"""Seconds that SQLite itself waits for another connection's lock; the gateway may retry then."""


class Connection:
    """A connection that detects a deleted or replaced file; SQLite would go on writing to it.

    It is an OpenDatabase. `raw` is the driver's connection, for the engine alone; a writer holds
    `lock` during its transactions. Raises StorageError if the file cannot be opened.
    """

    abandoned = False

    def __init__(self, path: Path, mode: Mode) -> None:
        self.path = path
        self.lock = WriteLock(None)
        self._name = str(path)
        self._identity = identity(path)  # before connecting: the file may be replaced meanwhile
        self.raw = _connect(f"{path.absolute().as_uri()}?{mode}")
        self._execute = self.raw.execute

    def select(self, sql: str, params: Mapping[str, Value] = NO_PARAMS) -> Iterator[Row]:
        try:
            cursor = self._execute(sql, params)
        except sqlite3.Error as error:
            raise storage_error(error) from error
        return _rows(cursor)

    def execute(self, sql: str, params: Mapping[str, Value] = NO_PARAMS) -> int:
        try:
            return self._execute(sql, params).rowcount
        except sqlite3.Error as error:
            raise storage_error(error) from error

    def insert(self, into: str, rows: Sequence[Sequence[object]], after: str = "") -> int:
        changed = 0
        try:
            for statement, values in inserts(into, rows, after):
                changed += self._execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise storage_error(error) from error
        return changed

    def version(self) -> int:
        return self._number("PRAGMA data_version")

    def used_bytes(self) -> int:
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._number("PRAGMA page_size")

    def _number(self, sql: str) -> int:
        try:
            [number] = self._execute(sql).fetchone()
        except sqlite3.Error as error:
            raise storage_error(error) from error
        return int(number)

    def check(self) -> None:
        """Raise FileGone if the file at `path` is another, or the connection was abandoned."""
        if self.abandoned:
            raise FileGone("the gateway has given this connection up")
        if identity(self._name) != self._identity:
            raise FileGone("the database file was deleted or replaced")

    @property
    def in_transaction(self) -> bool:
        return self.raw.in_transaction

    def vacuum(self, pages: int) -> bool:
        """Shorten the file by up to `pages` free pages; True if there may be more of them."""
        before = self._number("PRAGMA freelist_count")
        if before:  # `execute` frees one page only
            try:
                self.raw.executescript(f"PRAGMA incremental_vacuum({pages})")
            except sqlite3.Error as error:
                raise storage_error(error) from error
        return 0 < self._number("PRAGMA freelist_count") < before

    def interrupt(self) -> None:
        """Interrupt the running statement, if the connection is still open."""
        with contextlib.suppress(sqlite3.Error):
            self.raw.interrupt()

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.raw.close()


def _connect(uri: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            uri,
            uri=True,
            timeout=LOCK_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.Error as error:
        raise storage_error(error) from error


def _rows(cursor: sqlite3.Cursor) -> Iterator[Row]:
    try:
        yield from cursor
    except sqlite3.Error as error:
        raise storage_error(error) from error
