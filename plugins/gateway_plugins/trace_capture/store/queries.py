"""Finds and deletes traces in the file; all functions take a Database and block."""

from collections.abc import Iterator, Sequence

import msgspec

from gateway import Database, Trace, Verdict
from gateway_plugins.trace_capture.sessions.owners import SqlParams, sessions_condition
from gateway_plugins.trace_capture.store.row_decoder import COLUMNS, RowDecoder, StoredRow
from gateway_plugins.trace_capture.training import hours

FETCH_BATCH = 200
"""Rows fetched at a time, so that reading never holds a whole session."""

_TABLES = (
    "traces",
    "rewards",
    "session_tito",
    "session_parents",
    "handover_sessions",
    "handover_open",
    "handover_claims",
    "sessions",
)
"""In the order of deletion; `sessions` is last, because it holds the sessions' owners."""

_HANDOVER_LOOK_BACK = """
UPDATE handover_seen SET
    number = min(number, (SELECT coalesce(max(number), 0) FROM traces)),
    reward = min(reward, (SELECT coalesce(max(number), 0) FROM rewards))
"""


class TraceFilter(msgspec.Struct, frozen=True):
    """Conditions on traces; all that are not None must hold.

    Times are Unix seconds; `since` is inclusive, `until` exclusive. `weight_version` is a text, ""
    if the trace has none. `owner` is the id of the principal that owns the traces, see owners.py.
    """

    session_ids: tuple[str, ...] | None = None
    since: float | None = None
    until: float | None = None
    model: str | None = None
    worker: str | None = None
    weight_version: str | None = None
    verdict: Verdict | None = None
    owner: str | None = None


def get(db: Database, trace_id: str, owner: str | None = None) -> Trace | None:
    """Return a trace; None if there is none, or if it is not the owner's (unless `owner` is None).

    Raises UnreadableRow if a damaged file does not yield it.
    """
    where, params = _is(trace_id, owner)
    rows = db.select(f"SELECT {COLUMNS} FROM traces WHERE {where}", params)
    row = next(rows, None)
    return RowDecoder(db).trace(StoredRow(*row)) if row is not None else None


def select(
    db: Database,
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
    db: Database,
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


def count(db: Database, wanted: TraceFilter) -> int:
    """Number of matching traces."""
    where, params = _where(wanted, 0)
    [(found,)] = db.select(f"SELECT count(*) FROM traces WHERE {where}", params)
    return int(found)


def before_newest(db: Database, wanted: TraceFilter, limit: int) -> str | None:
    """Return the id of the trace before the newest `limit`; None if there is no such trace."""
    where, params = _where(wanted, 0)
    query = f"SELECT trace_id FROM traces WHERE {where} ORDER BY number DESC LIMIT 1 OFFSET :limit"
    row = next(db.select(query, {**params, "limit": limit}), None)
    return None if row is None else str(row[0])


def sessions_of(db: Database, wanted: TraceFilter) -> Iterator[str]:
    """Return the ids of the sessions that have a matching trace, by time of creation."""
    source, params = _sessions_with(wanted)
    query = f"SELECT session_id {source} ORDER BY created_at, session_id"
    return (row[0] for row in db.select(query, params))


def count_sessions(db: Database, wanted: TraceFilter) -> tuple[int, int]:
    """Count the sessions with a matching trace, and their calls that could not be stored."""
    source, params = _sessions_with(wanted)
    query = f"SELECT count(*), coalesce(sum(lost), 0) {source}"
    [(found, lost)] = db.select(query, params)
    return found, lost


def _sessions_with(wanted: TraceFilter) -> tuple[str, SqlParams]:
    where, params = _where(wanted, 0)
    theirs = f"SELECT 1 FROM traces WHERE traces.session_id = one.session_id AND {where}"
    return f"FROM sessions AS one WHERE EXISTS ({theirs})", params


def last_of_page(db: Database, wanted: TraceFilter, *, after: str | None, limit: int) -> str | None:
    """Return the id of the last trace of a page of `limit`; None if no trace follows it."""
    start = _number(db, after, wanted.owner) if after is not None else 0
    where, params = _where(wanted, start)
    query = f"SELECT trace_id FROM traces WHERE {where} ORDER BY number LIMIT 2 OFFSET :offset"
    found = list(db.select(query, {**params, "offset": max(limit - 1, 0)}))
    return found[0][0] if len(found) == 2 else None


def delete_sessions(db: Database, session_ids: Sequence[str], owner: str | None = None) -> int:
    """Delete sessions with their traces and rewards; return the number of traces deleted.

    Sessions of another owner are kept. If `owner` is None, any owner's are deleted.
    """
    deleted = 0
    hours.catch_up(db)
    for session_id in session_ids:
        where, params = sessions_condition([session_id], owner)
        for table in _TABLES:
            count = db.execute(f"DELETE FROM {table} WHERE {where}", params)
            deleted += count if table == "traces" else 0
    _look_back(db)
    return deleted


def delete_sessionless(db: Database, before: float, limit: int) -> int:
    """Delete traces without a session that are older; return their number, at most `limit`."""
    hours.catch_up(db)
    deleted = db.execute(
        "DELETE FROM traces WHERE number IN (SELECT number FROM traces"
        " WHERE session_id IS NULL AND timestamp < :before ORDER BY number LIMIT :limit)",
        {"before": before, "limit": limit},
    )
    _look_back(db)
    return deleted


def _look_back(db: Database) -> None:
    """Note for all who follow the numbers of rows that the newest may be given again."""
    hours.look_back(db)
    db.execute(_HANDOVER_LOOK_BACK)


def _is(trace_id: str, owner: str | None) -> tuple[str, SqlParams]:
    if owner is None:
        return "trace_id = :trace_id", {"trace_id": trace_id}
    return "trace_id = :trace_id AND owner = :owner", {"trace_id": trace_id, "owner": owner}


def _number(db: Database, trace_id: str, owner: str | None) -> int:
    where, params = _is(trace_id, owner)
    for (number,) in db.select(f"SELECT number FROM traces WHERE {where}", params):
        return int(number)
    raise LookupError(f"there is no trace {trace_id}")


def _page(db: Database, wanted: TraceFilter, last: int, limit: int) -> list[StoredRow]:
    where, params = _where(wanted, last)
    query = f"SELECT {COLUMNS} FROM traces WHERE {where} ORDER BY number LIMIT :limit"
    return [StoredRow(*row) for row in db.select(query, {**params, "limit": limit})]


def _where(wanted: TraceFilter, start: int) -> tuple[str, SqlParams]:
    found: list[tuple[str, SqlParams]] = [("number > :start", {"start": start})]
    if wanted.session_ids is not None:
        found.append(sessions_condition(wanted.session_ids, wanted.owner))
    elif wanted.owner is not None:
        found.append(("owner = :owner", {"owner": wanted.owner}))
    found += _in_time(wanted.since, wanted.until)
    if wanted.model is not None:
        found.append(("model = :model", {"model": wanted.model}))
    if wanted.worker is not None:
        found.append(("worker = :worker", {"worker": wanted.worker}))
    if wanted.weight_version is not None:
        found.append(("version = :version", {"version": wanted.weight_version}))
    if wanted.verdict is not None:
        found.append(("complete = :complete", {"complete": wanted.verdict == "COMPLETE"}))
    conditions = " AND ".join(condition for condition, _ in found)
    return conditions, {name: value for _, params in found for name, value in params.items()}


def _in_time(since: float | None, until: float | None) -> Iterator[tuple[str, SqlParams]]:
    """Yield the conditions on a trace's time, also on its id, whose index is an index of times."""
    if since is not None:
        params: SqlParams = {"since": since, "first_id": _id_prefix(since)}
        yield "timestamp >= :since AND trace_id >= :first_id", params
    if until is not None:
        params = {"until": until, "last_id": _id_prefix(until + 1)}
        yield "timestamp < :until AND trace_id < :last_id", params


def _id_prefix(timestamp: float) -> str:
    """Return the prefix of the ids of traces of that time."""
    return f"{max(0, min(int(timestamp * 1000), 1 << 47)):012x}"
