"""The tables of the queue, of files and of batches, and the migrations that create them.

Times are Unix seconds. An item is a row of `batch_items`, which is small, because it changes often;
its request is in `batch_bodies` and its response in `batch_answers`, both as `texts.py` packs them.
A lane has the items of one owner, model and priority; `queued` and `running` count them, and change
in the transaction that changes the items; `begun` is when one of the items was last begun. `holder`
is the process that runs the item, see `holders.py`. `due` is when an item may be tried again, 0 for
an item that may run at once.
`traceparent` is the header of this name that the item, or the batch, was submitted with.
`attempts` counts the calls begun for the item, `charged` those that count against `max_attempts`.

A batch is a row of `batches`; `holder` is the process that reads its input or writes its results.
`loaded` is the number of the last line that was queued, `reserved` the lines that are still to be.
`digest` is that of the request that created it, `hours` its completion window.
"""

from gateway import Migration, Migrations

_TABLES = """
CREATE TABLE batch_lanes (
    lane INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    priority INTEGER NOT NULL,
    queued INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0,
    begun REAL NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX batch_lanes_by_name ON batch_lanes (owner, model, priority);
CREATE INDEX batch_lanes_busy ON batch_lanes (owner) WHERE queued + running > 0;
CREATE TABLE batch_principals (number INTEGER PRIMARY KEY, content TEXT NOT NULL UNIQUE);
CREATE TABLE batch_holders (number INTEGER PRIMARY KEY, beat INTEGER NOT NULL DEFAULT 0);
CREATE TABLE batch_items (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    lane INTEGER NOT NULL,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    principal INTEGER,
    batch INTEGER,
    line INTEGER,
    custom_id TEXT,
    estimate REAL,
    state INTEGER NOT NULL DEFAULT 0,
    submitted REAL NOT NULL,
    due REAL NOT NULL DEFAULT 0,
    deadline REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    charged INTEGER NOT NULL DEFAULT 0,
    holder INTEGER,
    started REAL,
    finished REAL,
    expires REAL,
    status INTEGER,
    error TEXT,
    request_id TEXT
);
CREATE INDEX batch_items_by_lane ON batch_items (lane, state, number);
CREATE INDEX batch_items_queued ON batch_items (lane, due, number) WHERE state = 0;
CREATE INDEX batch_items_running ON batch_items (holder) WHERE holder IS NOT NULL;
CREATE INDEX batch_items_deadline ON batch_items (deadline) WHERE state = 0;
CREATE INDEX batch_items_expiry ON batch_items (expires) WHERE expires IS NOT NULL;
CREATE UNIQUE INDEX batch_items_by_line ON batch_items (batch, line) WHERE batch IS NOT NULL;
CREATE TABLE batch_bodies (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE batch_answers (number INTEGER PRIMARY KEY, answer BLOB NOT NULL);
CREATE TABLE batch_submissions (
    owner TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, id TEXT NOT NULL,
    submitted REAL NOT NULL, PRIMARY KEY (owner, key)
) WITHOUT ROWID;
CREATE INDEX batch_submissions_by_time ON batch_submissions (submitted);
CREATE TABLE batch_files (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created REAL NOT NULL,
    expires REAL,
    users INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX batch_files_by_owner ON batch_files (owner, id);
CREATE INDEX batch_files_deleted ON batch_files (id) WHERE deleted = 1;
CREATE INDEX batch_files_expiry ON batch_files (expires) WHERE expires IS NOT NULL;
CREATE TABLE batch_uploads (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created REAL NOT NULL,
    expires REAL NOT NULL,
    seconds REAL,
    status TEXT NOT NULL,
    file TEXT
);
CREATE INDEX batch_uploads_by_owner ON batch_uploads (owner);
CREATE INDEX batch_uploads_expiry ON batch_uploads (expires);
CREATE TABLE batch_upload_parts (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    upload TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created REAL NOT NULL
);
CREATE INDEX batch_upload_parts_by_upload ON batch_upload_parts (upload);
CREATE TABLE batches (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    principal INTEGER,
    endpoint TEXT NOT NULL,
    input_file TEXT NOT NULL,
    hours INTEGER NOT NULL,
    digest BLOB,
    metadata TEXT,
    priority INTEGER NOT NULL,
    output_expires REAL,
    status TEXT NOT NULL,
    holder INTEGER,
    created REAL NOT NULL,
    deadline REAL NOT NULL,
    in_progress REAL,
    finalizing REAL,
    ended REAL,
    cancelling REAL,
    errors TEXT,
    model TEXT,
    output_file TEXT,
    error_file TEXT,
    loaded INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX batches_by_owner ON batches (owner, number);
CREATE INDEX batches_unfinished ON batches (number) WHERE ended IS NULL;
CREATE INDEX batches_by_end ON batches (ended) WHERE ended IS NOT NULL;
CREATE INDEX batches_reserving ON batches (owner, reserved) WHERE reserved > 0;
CREATE INDEX batches_held ON batches (holder) WHERE holder IS NOT NULL;
"""

_TRACEPARENT = "ALTER TABLE batch_items ADD COLUMN traceparent TEXT"

_OF_BATCHES = "ALTER TABLE batches ADD COLUMN traceparent TEXT"

MIGRATIONS = Migrations(
    "batch",
    (
        Migration("create_tables", _TABLES),
        Migration("add_traceparent", _TRACEPARENT),
        Migration("add_traceparent_of_batches", _OF_BATCHES),
    ),
)
