"""Opens the file of traces for the command line: read-only, also while a gateway writes to it."""

import contextlib
from collections.abc import Iterator

from gateway import Config, ConfigError, Database, StorageError, StorageUnavailable, open_read_only
from gateway_plugins.trace_capture.store.row_decoder import COLUMNS

_TABLES = (
    f"SELECT {COLUMNS} FROM traces LIMIT 0",
    "SELECT session_id, created_at, metadata FROM sessions LIMIT 0",
    "SELECT session_id, trace_id, value, source, timestamp FROM rewards LIMIT 0",
)


@contextlib.contextmanager
def opened(settings: Config) -> Iterator[Database]:
    """Yield a snapshot of the database, unaffected by a gateway that writes to it.

    Raises ConfigError if it is not a file with traces, and for a StorageError in the block.
    """
    with open_read_only(settings, "GET /sessions") as db:
        try:
            _check_tables(db)
        except StorageUnavailable:
            raise
        except StorageError as error:
            message = f"{settings.storage.path}: is not a file of trace_capture's: {error}"
            raise ConfigError(message) from None
        yield db


def _check_tables(db: Database) -> None:
    for query in _TABLES:
        next(db.select(query), None)
