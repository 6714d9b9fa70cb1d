"""The tables of trace_capture, and how they came to be what they are."""

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


@MIGRATIONS()
def create_tables(db: Database) -> None:
    """Sessions, their traces and rewards; `capture_settings` are JSON values set by admin calls."""
    for statement in _TABLES.split(";"):
        if statement.strip():
            connection: sqlite3.Connection = db.conn
            connection.execute(statement)
