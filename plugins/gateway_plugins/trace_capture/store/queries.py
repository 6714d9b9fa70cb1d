"""Finds and deletes traces in the file; all functions take a connection and block."""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from gateway import Trace, Verdict
from gateway_plugins.trace_capture.sessions.owners import sessions_condition
from gateway_plugins.trace_capture.store.row_decoder import COLUMNS, RowDecoder, StoredRow

FETCH_BATCH = 200
"""Rows fetched at a time, so that reading never holds a whole session."""

_TABLES = ("traces", "rewards", "sessions")
"""In the order of deletion; `sessions` is last, because it holds the sessions' owners."""


class TraceFilter(msgspec.Struct, frozen=True):
    """Conditions on traces; all that are not None must hold.

    Times are Unix seconds; `since` is inclusive, `until` exclusive. `owner` is the id of the
    principal that owns the traces, see owners.py.
    """

    session_ids: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    model: str | None = None
    verdict: Verdict | None = None
    owner: str | None = None


def get(db: sqlite3.Connection, trace_id: str, owner: str | None = None) -> Trace | None:
    """Return a trace; None if there is none, or if it is not the owner's (unless `owner` is None).

    Raises UnreadableRow if a damaged file does not yield it.
    """
    where, values = _is(trace_id, owner)
    row = db.execute(f"SELECT {COLUMNS} FROM traces WHERE {where}", values).fetchone()
    return RowDecoder(db).trace(StoredRow(*row)) if row is not None else None


def select(
    db: sqlite3.Connection,
    wanted: TraceFilter,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> Iterator[Trace]:
    """Yield traces in the order in which they were stored, beginning after the trace `after`.

    Raises LookupError if the owner has no trace `after`, and UnreadableRow if the file is damaged.
    """
    decoder = RowDecoder(db)
    for row in rows(db, wanted, after=after, limit=limit):
        yield decoder.trace(row)


def rows(
    db: sqlite3.Connection,
    wanted: TraceFilter,
    *,
    after: str | None = None,
    limit: int | None = None,
) -> Iterator[StoredRow]:
    """Yield the rows of the same traces, for a RowDecoder. Raises LookupError as `select` does."""
    last = _number(db, after, wanted.owner) if after is not None else 0
    while limit is None or limit > 0:
        found = _page(db, wanted, last, FETCH_BATCH if limit is None else min(limit, FETCH_BATCH))
        yield from found
        if len(found) < FETCH_BATCH:
            return
        last = found[-1].number
        limit = None if limit is None else limit - len(found)


def count(db: sqlite3.Connection, wanted: TraceFilter) -> int:
    """Number of matching traces."""
    where, values = _where(wanted, 0)
    [(found,)] = db.execute(f"SELECT count(*) FROM traces WHERE {where}", values)
    return int(found)


def before_newest(db: sqlite3.Connection, wanted: TraceFilter, limit: int) -> str | None:
    """Return the id of the trace before the newest `limit`; None if there is no such trace."""
    where, values = _where(wanted, 0)
    query = f"SELECT trace_id FROM traces WHERE {where} ORDER BY number DESC LIMIT 1 OFFSET ?"
    row = db.execute(query, (*values, limit)).fetchone()
    return None if row is None else str(row[0])


def sessions_of(db: sqlite3.Connection, wanted: TraceFilter) -> Iterator[str]:
    """Return the ids of the sessions that have a matching trace, by time of creation."""
    source, values = _sessions_with(wanted)
    query = f"SELECT session_id {source} ORDER BY created_at, session_id"
    return (row[0] for row in db.execute(query, values))


def count_sessions(db: sqlite3.Connection, wanted: TraceFilter) -> tuple[int, int]:
    """Count the sessions with a matching trace, and their calls that could not be stored."""
    source, values = _sessions_with(wanted)
    query = f"SELECT count(*), coalesce(sum(lost), 0) {source}"
    [(found, lost)] = db.execute(query, values)
    return found, lost


def _sessions_with(wanted: TraceFilter) -> tuple[str, list[object]]:
    where, values = _where(wanted, 0)
    theirs = f"SELECT 1 FROM traces WHERE traces.session_id = one.session_id AND {where}"
    return f"FROM sessions AS one WHERE EXISTS ({theirs})", values


def last(
    db: sqlite3.Connection, wanted: TraceFilter, *, after: str | None, limit: int
) -> str | None:
    """Return the id of the last trace of a page of `limit`; None if no trace follows it."""
    start = _number(db, after, wanted.owner) if after is not None else 0
    where, values = _where(wanted, start)
    query = f"SELECT trace_id FROM traces WHERE {where} ORDER BY number LIMIT 2 OFFSET ?"
    found = db.execute(query, (*values, max(limit - 1, 0))).fetchall()
    return found[0][0] if len(found) == 2 else None


def delete_sessions(
    db: sqlite3.Connection, session_ids: Sequence[str], owner: str | None = None
) -> int:
    """Delete sessions with their traces and rewards; return the number of traces deleted.

    Sessions of another owner are kept. If `owner` is None, any owner's are deleted.
    """
    deleted = 0
    for session_id in session_ids:
        where, values = sessions_condition([session_id], owner)
        for table in _TABLES:
            gone = db.execute(f"DELETE FROM {table} WHERE {where}", values)
            deleted += gone.rowcount if table == "traces" else 0
    return deleted


def _is(trace_id: str, owner: str | None) -> tuple[str, list[object]]:
    if owner is None:
        return "trace_id = ?", [trace_id]
    return "trace_id = ? AND owner = ?", [trace_id, owner]


def _number(db: sqlite3.Connection, trace_id: str, owner: str | None) -> int:
    where, values = _is(trace_id, owner)
    row = db.execute(f"SELECT number FROM traces WHERE {where}", values).fetchone()
    if row is None:
        raise LookupError(f"there is no trace {trace_id}")
    number: int = row[0]
    return number


def _page(db: sqlite3.Connection, wanted: TraceFilter, last: int, most: int) -> list[StoredRow]:
    where, values = _where(wanted, last)
    query = f"SELECT {COLUMNS} FROM traces WHERE {where} ORDER BY number LIMIT ?"
    return [StoredRow(*row) for row in db.execute(query, (*values, most))]


def _where(wanted: TraceFilter, start: int) -> tuple[str, list[object]]:
    conditions: list[tuple[str, list[object]]] = [("number > ?", [start])]
    if wanted.session_ids is not None:
        conditions.append(sessions_condition(wanted.session_ids, wanted.owner))
    elif wanted.owner is not None:
        conditions.append(("owner = ?", [wanted.owner]))
    if wanted.since is not None:
        conditions.append(("timestamp >= ? AND trace_id >= ?", [wanted.since, _at(wanted.since)]))
    if wanted.until is not None:
        later = _at(wanted.until + 1)
        conditions.append(("timestamp < ? AND trace_id < ?", [wanted.until, later]))
    if wanted.model is not None:
        conditions.append(("model = ?", [wanted.model]))
    if wanted.verdict is not None:
        conditions.append(("complete = ?", [wanted.verdict == "COMPLETE"]))
    return (
        " AND ".join(condition for condition, _ in conditions),
        [value for _, values in conditions for value in values],
    )


def _at(timestamp: float) -> str:
    """Return the prefix of trace ids of that time, so that the id index serves as a time index."""
    return f"{max(0, min(int(timestamp * 1000), 1 << 47)):012x}"
