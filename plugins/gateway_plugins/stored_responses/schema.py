"""The tables. Times are Unix seconds.

A holder of items is a response or a conversation, by its number: no number is given twice, as a
response that still runs may follow one that was deleted. `beat` is when the process that
runs a response in the background last said so; `logged` tells that all its events are kept.
"""

from gateway import Migration, Migrations

_TABLES = """
CREATE TABLE stored_holders (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    session TEXT NOT NULL,
    root INTEGER,
    previous INTEGER,
    status TEXT NOT NULL DEFAULT '',
    is_background INTEGER NOT NULL DEFAULT 0,
    has_events INTEGER NOT NULL DEFAULT 0,
    logged INTEGER NOT NULL DEFAULT 0,
    beat REAL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX stored_holders_by_id ON stored_holders (owner, id);
CREATE INDEX stored_holders_by_use ON stored_holders (owner, kind, used);
CREATE INDEX stored_holders_by_age ON stored_holders (used);
CREATE INDEX stored_holders_by_root ON stored_holders (root);
CREATE TABLE stored_items (
    holder INTEGER NOT NULL,
    place INTEGER NOT NULL,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    is_output INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (holder, place)
);
CREATE INDEX stored_items_by_id ON stored_items (owner, id);
CREATE TABLE stored_events (
    holder INTEGER NOT NULL,
    first INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (holder, first)
)
"""

_RUNNING = """
CREATE INDEX stored_holders_running ON stored_holders (owner)
WHERE status IN ('queued', 'in_progress')
"""

MIGRATIONS = Migrations(
    "stored_responses",
    (Migration("create_tables", _TABLES), Migration("index_running", _RUNNING)),
)
