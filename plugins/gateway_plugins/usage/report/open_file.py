"""Opens the database file for the command line, even while a gateway writes to it."""

import contextlib
import sqlite3
from collections.abc import Iterator

from gateway import Config, ConfigError, Storage


@contextlib.contextmanager
def opened(settings: Config) -> Iterator[sqlite3.Connection]:
    """Yield a connection that sees the file as it is now, in one snapshot.

    Raises ConfigError if the file has no usage tables, and if SQLite fails within the block.
    """
    if settings.storage.in_memory:
        raise ConfigError("the database is in memory; ask the gateway: GET /monitor/key_usage")
    storage = Storage(settings, ())
    if not storage.path.is_file():
        raise ConfigError(f"{storage.path}: is no file; name one with --storage-path or --config")
    try:
        with contextlib.closing(storage.connect()) as db:
            db.execute("BEGIN")
            _check(db, settings.storage.path)
            yield db
    except sqlite3.Error as error:
        raise ConfigError(f"{storage.path}: cannot be read: {error}") from error


def _check(db: sqlite3.Connection, path: str) -> None:
    try:
        db.execute("SELECT 1 FROM usage_marks LIMIT 1")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise ConfigError(f"{path}: has no usage: no gateway with the plugin used it") from None
