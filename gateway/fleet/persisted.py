"""The table that keeps the admin interface's changes of workers across restarts."""

import logging
import sqlite3
from collections.abc import Sequence

import msgspec
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from gateway import config
from gateway.errors import GatewayError
from gateway.fleet.changes import NO_CHANGE, Change
from gateway.storage import Storage

log = logging.getLogger("gateway")

MIGRATIONS = Migrations("gateway")


@MIGRATIONS()
def create_workers(db: Database) -> None:
    """Create the table: one Change as JSON per changed worker, in order of first change."""
    connection: sqlite3.Connection = db.conn
    connection.execute(
        "CREATE TABLE workers (number INTEGER PRIMARY KEY, worker_id TEXT NOT NULL UNIQUE,"
        " change BLOB NOT NULL)"
    )


class PersistedWorkers:
    """The changes in the embedded database. Without `persist_workers` it keeps none."""

    def __init__(self, storage: Storage, settings: config.Config) -> None:
        self._storage = storage
        self._keeps = settings.storage.persist_workers

    @staticmethod
    def migrations(settings: config.Config) -> Sequence[Migrations]:
        return [MIGRATIONS] if settings.storage.persist_workers else []

    async def load(self) -> dict[str, Change]:
        """Load the changes of earlier runs; none, with a log message, if they cannot be read."""
        if not self._keeps:
            return {}
        try:
            rows = await self._storage.read(_rows)
        except (sqlite3.Error, GatewayError) as error:
            log.error("the kept changes of workers cannot be read, so none holds: %s", error)
            return {}
        found = {worker_id: _read(worker_id, content) for worker_id, content in rows}
        return {worker_id: change for worker_id, change in found.items() if change is not None}

    async def keep(self, worker_id: str, change: Change) -> None:
        """Store and commit the change. Raises sqlite3.Error or StorageUnavailable."""
        if self._keeps:
            await self._storage.write(lambda db: _store(db, worker_id, change))


def _rows(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
    return db.execute("SELECT worker_id, change FROM workers ORDER BY number").fetchall()


def _store(db: sqlite3.Connection, worker_id: str, change: Change) -> None:
    if change == NO_CHANGE:
        db.execute("DELETE FROM workers WHERE worker_id = ?", (worker_id,))
        return
    db.execute(
        "INSERT INTO workers (worker_id, change) VALUES (?, ?)"
        " ON CONFLICT (worker_id) DO UPDATE SET change = excluded.change",
        (worker_id, msgspec.json.encode(change)),
    )


def _read(worker_id: str, content: bytes) -> Change | None:
    try:
        return msgspec.json.decode(content, type=Change)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        log.error("the kept change of worker %s cannot be read and is left: %s", worker_id, error)
        return None
