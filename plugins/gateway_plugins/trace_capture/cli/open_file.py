"""Opens the file of traces for the command line: read-only, also while a gateway writes to it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gateway import ConfigError
from gateway_plugins.trace_capture.store.row_decoder import COLUMNS

_OURS = (
    f"SELECT {COLUMNS} FROM traces LIMIT 0",
    "SELECT session_id, created_at, metadata FROM sessions LIMIT 0",
    "SELECT session_id, trace_id, value, source, timestamp FROM rewards LIMIT 0",
)

_NO_ROOM_BESIDE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a snapshot of the file, unaffected by a gateway that writes to it.

    Raises ConfigError if it is not a file with traces, and for a sqlite3.Error in the block.
    """
    _check(path)
    try:
        with contextlib.closing(_connect(path)) as db:
            _check_tables(path, db)
            db.execute("BEGIN")  # one snapshot for all reads
            yield db
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _check(path: Path) -> None:
    if str(path) == ":memory:":
        raise ConfigError(
            "storage.path :memory: is no file; ask the gateway over HTTP: GET /sessions"
        )
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such file; name one with --storage-path or --config"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: is not a file; name one with --storage-path or --config")


def _connect(path: Path) -> sqlite3.Connection:
    """Connect read-only, or as immutable if SQLite cannot create its files beside the file.

    A WAL that holds data rules out the latter: SQLite's error is raised then.
    """
    try:
        return _tried(path, "mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _NO_ROOM_BESIDE or _has_more_beside(path):
            raise
        return _tried(path, "immutable=1")


def _tried(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
    try:
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _has_more_beside(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _check_tables(path: Path, db: sqlite3.Connection) -> None:
    try:
        for query in _OURS:
            db.execute(query)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise ConfigError(f"{path}: is not a file of trace_capture's: {error}") from None
