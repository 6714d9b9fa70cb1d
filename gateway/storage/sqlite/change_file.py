"""Opens the database file for a command that changes rows, also while a gateway uses it."""

import contextlib
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TypeVar

from gateway.config import Config
from gateway.errors import ConfigError, StorageError, StorageUnavailable
from gateway.storage.database import Database
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.faults import fault_text, is_busy
from gateway.storage.sqlite.read_only import existing_file
from gateway.storage.sqlite.writer import change

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds that a change waits for other writers; SQLite itself waits for a part of them."""


class FileChanges:
    """Changes to the file of a gateway, each in its own transaction."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def write(self, run: Callable[[Database], T]) -> T:
        """Run a change in a transaction that is committed on return.

        Waits for PATIENCE seconds while others write; `run` may then be called again. Raises the
        exceptions of `run`, and StorageUnavailable if the file cannot be written.
        """
        ends = monotonic() + PATIENCE
        while True:
            try:
                return change(self._db, run)
            except StorageUnavailable as error:
                if not is_busy(error) or monotonic() >= ends:
                    raise


@contextlib.contextmanager
def open_for_changes(settings: Config, instead: str) -> Iterator[FileChanges]:
    """Yield the database of a gateway, which may be running, for changes of its rows.

    Creates neither the file nor tables: that is the gateway's. `instead` is the request that does
    the same for a database in memory, such as "DELETE /v1/jobs/{id}". Raises ConfigError if there
    is no file, and for a StorageError in the block.
    """
    path = existing_file(settings, instead)
    try:
        with contextlib.closing(Connection(path, "mode=rw")) as db:
            level = "FULL" if settings.storage.durability == "power" else "NORMAL"
            db.execute(f"PRAGMA synchronous = {level}")
            yield FileChanges(db)
    except StorageError as error:
        raise ConfigError(f"{path}: cannot be changed: {fault_text(error)}") from error
