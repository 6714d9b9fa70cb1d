"""Opens the database file for a command, also while a gateway writes to it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gateway.config import Config
from gateway.errors import ConfigError, StorageError
from gateway.storage.database import Database
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.faults import has_code
from gateway.storage.sqlite.file import connect_read_only


@contextlib.contextmanager
def open_read_only(settings: Config, instead: str) -> Iterator[Database]:
    """Yield the database as it is now: a snapshot that a running gateway does not change.

    `instead` is the request that gives the same of a gateway whose database is in memory, such as
    "GET /sessions". Raises ConfigError if there is no file, and for a StorageError in the block.
    """
    path = existing_file(settings, instead)
    try:
        with contextlib.closing(_connect(path)) as db:
            db.execute("BEGIN")  # one snapshot for all reads
            yield db
    except StorageError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def existing_file(settings: Config, instead: str) -> Path:
    """Return the path of the database. Raises ConfigError if it is in memory, or no file."""
    if settings.storage.in_memory:
        raise ConfigError(f"the database is in memory; ask the gateway over HTTP: {instead}")
    path = Path(settings.storage.path)
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such file; name one with --storage-path or --config"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: is not a file; name one with --storage-path or --config")
    return path


def _connect(path: Path) -> Connection:
    """Connect read-only, or as immutable if SQLite cannot create its files beside the file.

    A WAL that holds data rules out the latter: the error is raised then.
    """
    db = None
    try:
        db = connect_read_only(path)
        next(db.select("SELECT 1 FROM sqlite_master LIMIT 1"), None)
    except StorageError as error:
        if db is not None:
            db.close()
        if not has_code(error, *_NO_ROOM_BESIDE) or _has_wal(path):
            raise
        return connect_read_only(path, "immutable=1")
    return db


_NO_ROOM_BESIDE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


def _has_wal(path: Path) -> bool:
    wal = path.with_name(path.name + "-wal")
    return wal.exists() and wal.stat().st_size > 0
