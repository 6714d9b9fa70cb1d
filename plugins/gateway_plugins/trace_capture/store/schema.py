"""The tables of trace_capture, and their migrations."""

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

MIGRATIONS = Migrations("trace_capture")

_TABLES = """
CREATE TABLE sessions (
    session_id TEXT PRIMARY KEY,
    created_at REAL NOT NULL,
    last_at REAL NOT NULL,
    traces INTEGER NOT NULL DEFAULT 0,
    incomplete INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    metadata TEXT NOT NULL DEFAULT '{}',
    sampling_params TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE INDEX sessions_by_time ON sessions (created_at, session_id);
CREATE TABLE traces (
    number INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL,
    session_id TEXT,
    timestamp REAL NOT NULL,
    complete INTEGER NOT NULL,
    model TEXT NOT NULL,
    base INTEGER,
    depth INTEGER NOT NULL,
    ends BLOB NOT NULL,
    content BLOB NOT NULL
);
CREATE UNIQUE INDEX traces_by_id ON traces (trace_id);
CREATE INDEX traces_by_session ON traces (session_id);
CREATE TABLE rewards (
    number INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL,
    trace_id TEXT,
    value REAL NOT NULL,
    source TEXT NOT NULL,
    timestamp REAL NOT NULL
);
CREATE INDEX rewards_by_session ON rewards (session_id, number);
CREATE TABLE capture_settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


_OWNERS = """
ALTER TABLE sessions ADD COLUMN owner TEXT;
CREATE INDEX sessions_by_owner ON sessions (owner, created_at, session_id)
    WHERE owner IS NOT NULL;
ALTER TABLE traces ADD COLUMN owner TEXT;
CREATE INDEX traces_by_owner ON traces (owner) WHERE owner IS NOT NULL
"""


_WITH_PARAMS = """
CREATE INDEX sessions_with_params ON sessions (session_id) WHERE sampling_params != '{}'
"""


@MIGRATIONS()
def create_tables(db: Database) -> None:
    """Create the tables; `capture_settings` holds JSON values set by admin calls."""
    _run(db, _TABLES)


@MIGRATIONS()
def add_owners(db: Database) -> None:
    """Add the ids of the principals that own sessions and traces; NULL: no owner."""
    _run(db, _OWNERS)


@MIGRATIONS()
def index_params(db: Database) -> None:
    """Add an index to find quickly whether any session has sampling parameters."""
    _run(db, _WITH_PARAMS)


def _run(db: Database, statements: str) -> None:
    connection: sqlite3.Connection = db.conn
    for statement in statements.split(";"):
        if statement.strip():
            connection.execute(statement)
