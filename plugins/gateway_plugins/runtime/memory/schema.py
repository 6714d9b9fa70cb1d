"""The tables. Times are Unix seconds; `until` is infinite for a failure that stays."""

from gateway import Migration, Migrations

_TABLES = """
CREATE TABLE runtime_models (
    model TEXT PRIMARY KEY,
    load_seconds REAL,
    failures INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    text TEXT,
    until REAL NOT NULL DEFAULT 0
);
CREATE TABLE runtime_saved (
    runtime TEXT PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0,
    content TEXT
);
"""

MIGRATIONS = Migrations("runtime", (Migration("create_tables", _TABLES),))
