"""Applies migrations, and records them in the file."""

from collections.abc import Sequence
from datetime import UTC, datetime

from gateway.storage.database import Database, Migrations

# The table of sqlite-utils, which applied the migrations before: its records hold.
_TABLE = """
CREATE TABLE IF NOT EXISTS "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
)
"""
_INDEX = """
CREATE UNIQUE INDEX IF NOT EXISTS "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name")
"""
_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = :name"
_RECORD = """
INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (:name, :step, :now)
"""


def migrate(db: Database, migrations: Sequence[Migrations]) -> None:
    """Apply the steps that the file lacks, within the caller's transaction.

    Raises StorageError if a statement fails.
    """
    db.execute(_TABLE)
    db.execute(_INDEX)
    for one in migrations:
        _apply(db, one)


def _apply(db: Database, migrations: Migrations) -> None:
    applied = {name for (name,) in db.select(_APPLIED, {"name": migrations.name})}
    for step in migrations.steps:
        if step.name not in applied:
            for statement in step.statements:
                db.execute(statement)
            now = str(datetime.now(UTC))
            db.execute(_RECORD, {"name": migrations.name, "step": step.name, "now": now})
