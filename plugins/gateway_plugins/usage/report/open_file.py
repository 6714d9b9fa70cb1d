"""Opens the database file for the command line, even while a gateway writes to it."""

import contextlib
from collections.abc import Iterator

from gateway import (
    Config,
    ConfigError,
    Database,
    StorageError,
    StorageUnavailable,
    open_read_only,
)


@contextlib.contextmanager
def opened(settings: Config) -> Iterator[Database]:
    """Yield the database as it is now, in one snapshot.

    Raises ConfigError if the file has no usage tables, and if the database fails in the block.
    """
    with open_read_only(settings, "GET /monitor/key_usage") as db:
        _check(db, settings.storage.path)
        yield db


def _check(db: Database, path: str) -> None:
    try:
        db.select("SELECT 1 FROM usage_marks LIMIT 1")
    except StorageUnavailable:
        raise
    except StorageError:
        raise ConfigError(f"{path}: has no usage: no gateway with the plugin used it") from None
