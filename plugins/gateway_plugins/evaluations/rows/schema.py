"""The tables of the plugin, and the migration that creates them.

Times are Unix seconds. A job is a row of `eval_jobs`, one evaluation of it a row of `eval_runs`,
and each request of an evaluation a row of `eval_items`: where its body is in the file of bodies,
and how it ended. `eval_answers` has the responses, packed, `eval_metrics` the scores. `generation`
counts how often items of an evaluation were made or run again, and `attempt` is that of an item: no
two requests ever have the same id in the queue.
"""

from gateway import Migration, Migrations

_TABLES = """
CREATE TABLE eval_jobs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    principal TEXT,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    ended REAL,
    named INTEGER NOT NULL,
    is_base_override INTEGER,
    is_base INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    folder TEXT,
    error TEXT
);
CREATE INDEX eval_jobs_by_owner ON eval_jobs (owner, number);
CREATE INDEX eval_jobs_by_model ON eval_jobs (model, number);
CREATE INDEX eval_jobs_unfinished ON eval_jobs (owner) WHERE ended IS NULL;
CREATE INDEX eval_jobs_by_end ON eval_jobs (ended) WHERE ended IS NOT NULL;
CREATE TABLE eval_arguments (
    job INTEGER NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (job, name)
);
CREATE TABLE eval_runs (
    number INTEGER PRIMARY KEY,
    job INTEGER NOT NULL,
    place INTEGER NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    total INTEGER,
    completed INTEGER,
    failed INTEGER,
    max_concurrency INTEGER,
    started REAL,
    ended REAL,
    has_items INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX eval_runs_by_job ON eval_runs (job, place);
CREATE INDEX eval_runs_unfinished ON eval_runs (number) WHERE ended IS NULL;
CREATE INDEX eval_runs_with_items ON eval_runs (ended) WHERE has_items = 1;
CREATE TABLE eval_items (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    status INTEGER,
    tries INTEGER NOT NULL DEFAULT 0,
    code TEXT,
    error TEXT,
    PRIMARY KEY (run, place)
);
CREATE INDEX eval_items_by_state ON eval_items (run, state, place);
CREATE TABLE eval_answers (
    run INTEGER NOT NULL, place INTEGER NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (run, place)
);
CREATE TABLE eval_metrics (
    run INTEGER NOT NULL, name TEXT NOT NULL, value REAL, PRIMARY KEY (run, name)
);
"""

_TRACEPARENT = "ALTER TABLE eval_jobs ADD COLUMN traceparent TEXT"

MIGRATIONS = Migrations(
    "evaluations", (Migration("create_tables", _TABLES), Migration("add_traceparent", _TRACEPARENT))
)
