"""A file of traces as a gateway has it after so many calls."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from gateway_plugins.trace_capture.store.schema import MIGRATIONS as CAPTURE
from gateway_plugins.usage.ledger.schema import MIGRATIONS as USAGE
from support.records.trace_records import File, Turn, record_of

from bench.stack import KEYS, Filler
from gateway import ConfigError
from gateway.storage.sqlite.file import open_for_writing, prepare_file

_QUICK = ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144")
"""Nobody minds if the file is lost."""

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last) "
_TRACES = """
INSERT INTO traces SELECT i, printf('%012x%020x', :at + i / 1000, i), 's' || (i / :each),
    :time, 1, 'bench-model', NULL, 0, :ends, :content, 'key-' || (i % :keys), '127.0.0.1', '',
    'bench', 2, 2, '' FROM n
"""
_CALLS = """
INSERT INTO usage_calls (
    number, id, time, key, model, worker, source, outcome, prompt_tokens, completion_tokens,
    cached_tokens, reasoning_tokens, counted, unread
) SELECT i, CAST(printf('%016x', i) AS BLOB), :time,
    'key-' || (i % :keys), 'bench-model', '127.0.0.1', 'realtime', 0, 32, 64, 0, 0, 0, 0 FROM n
"""
_SESSIONS = """
INSERT OR REPLACE INTO sessions (session_id, created_at, last_at, traces, owner)
SELECT 's' || i, :time, :time, :each, 'key-' || (i % :keys) FROM n
"""


ROOM = 1_000
"""Bytes on disk for a trace and the call of its usage, with room to spare."""


def filled(traces: int, sessions: int) -> Filler:
    """Makes a file of so many traces, alike in so many sessions, and of the calls of their usage.

    They are copies of one that was stored as a call's is. It is a short one, so that ten million
    of them fit on a disk; what a call has to look for is as much as with long ones.
    """

    def fill(file: Path) -> None:
        _check_room(file.parent, traces)
        prepare_file(file)
        with closing(open_for_writing(file, "none", [CAPTURE, USAGE])) as db:
            turn = Turn([1, 2, 3], [[4, 5]], [{"role": "user", "content": "x"}], "s1")
            File(db).store([record_of(turn)])
        with closing(sqlite3.connect(file, isolation_level=None)) as db:
            for setting in _QUICK:
                db.execute(f"PRAGMA {setting}")
            _copy(db, traces, sessions)

    return fill


def _check_room(folder: Path, traces: int) -> None:
    wanted = traces * ROOM
    if shutil.disk_usage(folder).free < wanted:
        raise ConfigError(
            f"{folder}: a file of {traces:,} traces needs {wanted / 1e9:.0f} GB; name another"
            " folder with --work"
        )


def _copy(db: sqlite3.Connection, traces: int, sessions: int) -> None:
    began = time.time() - 86_400
    [(ends, content)] = db.execute("SELECT ends, content FROM traces")
    values = {"time": began, "at": int(began * 1000), "ends": ends, "content": content}
    values |= {"each": traces // sessions, "keys": KEYS}
    db.execute("BEGIN")
    db.execute(_NUMBERS + _TRACES, {**values, "first": 2, "last": traces})
    db.execute(_NUMBERS + _CALLS, {**values, "first": 1, "last": traces})
    db.execute(_NUMBERS + _SESSIONS, {**values, "first": 0, "last": sessions})
    db.execute("UPDATE usage_marks SET value = ? WHERE name = 'summed'", (traces,))
    db.execute("COMMIT")
