"""The table. Times are Unix seconds, sizes are bytes.

`metadata` and `concat` are the headers as they were sent. `parts` are the ids of the uploads that a
final upload consists of, with blanks between, and `final` is the upload that this one is a part
of. `kept_to` is set while bytes are written whose checksum is not known to be right: those from
there on do not count. `received` is what had arrived at the end of the latest request.
"""

from gateway import Migration, Migrations

_TABLE = """
CREATE TABLE uploads (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    model TEXT,
    length INTEGER,
    received INTEGER NOT NULL DEFAULT 0,
    kept_to INTEGER,
    metadata TEXT NOT NULL DEFAULT '',
    concat TEXT NOT NULL DEFAULT '',
    parts TEXT NOT NULL DEFAULT '',
    final TEXT NOT NULL DEFAULT '',
    filename TEXT NOT NULL DEFAULT '',
    replaces TEXT NOT NULL DEFAULT '',
    expected TEXT NOT NULL DEFAULT '',
    sha256 TEXT,
    code TEXT,
    error TEXT,
    created REAL NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX uploads_by_owner ON uploads (owner, status);
CREATE INDEX uploads_by_end ON uploads (status, expires);
"""

MIGRATIONS = Migrations("uploads", (Migration("create_table", _TABLE),))
