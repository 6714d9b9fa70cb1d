"""The tables. Times are Unix seconds; `until` is infinite for a failure that stays.

A row of `runtime_disk` is a model in a cache of the hub: `fetched` is 1 if this gateway has
downloaded all that its folder has, and `whole` is 0 while a download of this gateway is under way,
or was cut off. `size` is in bytes.
"""

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

_DISK = """
CREATE TABLE runtime_disk (
    folder TEXT NOT NULL,
    revision TEXT NOT NULL,
    repository TEXT NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    fetched INTEGER NOT NULL DEFAULT 0,
    whole INTEGER NOT NULL DEFAULT 0,
    used_at REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (folder, revision)
);
"""

_TRIED = "ALTER TABLE runtime_models ADD COLUMN tried_at REAL NOT NULL DEFAULT 0;"

MIGRATIONS = Migrations(
    "runtime",
    (
        Migration("create_tables", _TABLES),
        Migration("keep_models_on_disk", _DISK),
        Migration("keep_when_failures_began", _TRIED),
    ),
)
