"""The table that keeps the admin interface's changes of workers across restarts."""

import logging
from collections.abc import Sequence

import msgspec

from gateway import config
from gateway.errors import GatewayError
from gateway.fleet.changes import NO_CHANGE, Change
from gateway.storage import Database, Migration, Migrations, Storage

log = logging.getLogger("gateway")

# One Change as JSON per changed worker, in order of first change.
_TABLE = """
CREATE TABLE workers (
    number INTEGER PRIMARY KEY, worker_id TEXT NOT NULL UNIQUE, change BLOB NOT NULL
)
"""

MIGRATIONS = Migrations("gateway", (Migration("create_workers", _TABLE),))


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
        except GatewayError as error:
            log.error("the kept changes of workers cannot be read, so none holds: %s", error)
            return {}
        found = {worker_id: _read(worker_id, content) for worker_id, content in rows}
        return {worker_id: change for worker_id, change in found.items() if change is not None}

    async def keep(self, worker_id: str, change: Change) -> None:
        """Store and commit the change. Raises StorageError."""
        if self._keeps:
            await self._storage.write(lambda db: _store(db, worker_id, change))


def _rows(db: Database) -> list[tuple[str, bytes]]:
    return list(db.select("SELECT worker_id, change FROM workers ORDER BY number"))


def _store(db: Database, worker_id: str, change: Change) -> None:
    if change == NO_CHANGE:
        db.execute("DELETE FROM workers WHERE worker_id = :id", {"id": worker_id})
        return
    db.execute(
        "INSERT INTO workers (worker_id, change) VALUES (:id, :change)"
        " ON CONFLICT (worker_id) DO UPDATE SET change = excluded.change",
        {"id": worker_id, "change": msgspec.json.encode(change)},
    )


def _read(worker_id: str, content: bytes) -> Change | None:
    try:
        return msgspec.json.decode(content, type=Change)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        log.error("the kept change of worker %s cannot be read and is left: %s", worker_id, error)
        return None
