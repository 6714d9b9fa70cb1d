"""Databases in memory, as sinks and queries see them."""

from collections.abc import Sequence
from pathlib import Path

from gateway import Migrations
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.migrate import migrate


def memory_database(migrations: Sequence[Migrations] = ()) -> Connection:
    """A database with these tables, gone when it is closed."""
    db = Connection(Path("memory"), "mode=memory")  # type: ignore[arg-type]
    migrate(db, migrations)
    return db
