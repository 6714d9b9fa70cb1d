"""The tables of trace_capture, and their migrations."""

from gateway import Migration, Migrations
from gateway_plugins.trace_capture.training.hours import TABLES

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

_DELETED = """
CREATE TABLE deleted_sessions (
    session_id TEXT NOT NULL, caller TEXT NOT NULL, deleted_at REAL NOT NULL,
    PRIMARY KEY (session_id, caller)
) WITHOUT ROWID;
CREATE INDEX deleted_sessions_by_time ON deleted_sessions (deleted_at)
"""

_TITO = """
CREATE TABLE session_tito (session_id TEXT PRIMARY KEY, mode TEXT NOT NULL) WITHOUT ROWID
"""

_PARENTS = """
CREATE TABLE session_parents (session_id TEXT PRIMARY KEY, parent_id TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX session_parents_by_parent ON session_parents (parent_id)
"""

_FACTS = """
ALTER TABLE traces ADD COLUMN worker TEXT;
ALTER TABLE traces ADD COLUMN version TEXT;
ALTER TABLE traces ADD COLUMN harness TEXT;
ALTER TABLE traces ADD COLUMN sampled INTEGER;
ALTER TABLE traces ADD COLUMN trainable INTEGER;
ALTER TABLE traces ADD COLUMN reasons TEXT;
DROP INDEX traces_by_session;
CREATE INDEX traces_by_session
    ON traces (session_id, number, timestamp, complete, model, worker, version);
CREATE INDEX traces_without_facts ON traces (number) WHERE worker IS NULL;
ALTER TABLE sessions ADD COLUMN sampled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN trainable INTEGER NOT NULL DEFAULT 0
"""

_HANDOVER = """
CREATE TABLE handover_sessions (
    session_id TEXT PRIMARY KEY,
    owner TEXT,
    last_at REAL NOT NULL,
    number INTEGER NOT NULL,
    rewarded INTEGER NOT NULL DEFAULT 0,
    grown INTEGER NOT NULL DEFAULT 1,
    reader TEXT,
    read_until REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX handover_sessions_grown ON handover_sessions (last_at) WHERE grown = 1;
CREATE INDEX handover_sessions_of_owner ON handover_sessions (owner, last_at) WHERE grown = 1;
CREATE INDEX handover_sessions_rewarded ON handover_sessions (last_at)
    WHERE grown = 1 AND rewarded = 1;
CREATE TABLE handover_open (
    session_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    choice INTEGER NOT NULL,
    owner TEXT,
    at REAL NOT NULL,
    model TEXT NOT NULL,
    harness TEXT NOT NULL,
    fork_kind TEXT NOT NULL,
    complete INTEGER NOT NULL,
    version INTEGER,
    tokens INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0,
    turns TEXT NOT NULL,
    PRIMARY KEY (session_id, trace_id, choice)
) WITHOUT ROWID;
CREATE INDEX handover_open_by_age ON handover_open (complete, at);
CREATE INDEX handover_open_by_version ON handover_open (complete, version DESC, at);
CREATE INDEX handover_open_of_owner ON handover_open (owner, complete, at);
CREATE TABLE handover_claims (
    receipt TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    choice INTEGER NOT NULL,
    owner TEXT,
    at REAL NOT NULL,
    model TEXT NOT NULL,
    harness TEXT NOT NULL,
    fork_kind TEXT NOT NULL,
    complete INTEGER NOT NULL,
    version INTEGER,
    tokens INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    turns TEXT NOT NULL,
    taught TEXT NOT NULL,
    state INTEGER NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX handover_claims_of_session ON handover_claims (session_id);
CREATE INDEX handover_claims_by_end ON handover_claims (until) WHERE state = 0;
CREATE INDEX handover_claims_over ON handover_claims (until) WHERE state > 2;
CREATE TABLE handover_seen (number INTEGER NOT NULL, reward INTEGER NOT NULL);
INSERT INTO handover_seen VALUES (0, 0)
"""

MIGRATIONS = Migrations(
    "trace_capture",
    (
        Migration("create_tables", _TABLES),
        Migration("add_owners", _OWNERS),
        Migration("index_params", _WITH_PARAMS),
        Migration("remember_deletions", _DELETED),
        Migration("add_tito", _TITO),
        Migration("add_parents", _PARENTS),
        Migration("add_facts", _FACTS),
        Migration("count_hours", TABLES),
        Migration("hand_over", _HANDOVER),
    ),
)
"""The tables, with JSON values that admin calls set in `capture_settings`.

`add_owners` adds the ids of the principals that own sessions and traces; NULL: no owner.
`index_params` adds an index to find quickly whether any session has sampling parameters.
`remember_deletions` adds the times of deletions, see deletions.py; an empty `caller`: all callers.
`add_tito` adds the sessions that have a mode of token-in/token-out of their own.
`add_parents` adds the sessions that started others, as their harness calls them.
`add_facts` adds what is searched and counted of a trace (NULL: stored by an earlier version, see
facts_of_old.py), with the worker and the weight version in the index by which the traces of a
session are found, so that a search of sessions reads the index alone; and the tokens of sessions.
`count_hours` adds the counts of training/hours.py.
`hand_over` adds what handover/ knows: sessions, with the last trace that it has seen of each;
trajectories that may be claimed; claims; and the last trace and reward that it has seen of all.
"""
