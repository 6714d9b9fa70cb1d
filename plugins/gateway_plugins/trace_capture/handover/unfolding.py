"""Reads the sessions that have grown, and notes their trajectories as open.

A session is chosen in a transaction, read in a reader's thread, and noted in another transaction:
calls are stored meanwhile. `reader` is a word of whoever reads it, so that several gateways do not
read the same one, and one that was deleted meanwhile is not noted.
"""

import logging
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import NamedTuple

from gateway import Database, Trace
from gateway_plugins.trace_capture.handover.filters import Wanted, of_sessions, over
from gateway_plugins.trace_capture.handover.turns import (
    Coverage,
    Open,
    Turn,
    delete,
    held,
    lowest,
    open_rows,
    put,
    read_turns,
    settled,
    with_turns,
    without,
)
from gateway_plugins.trace_capture.sequences import trajectories
from gateway_plugins.trace_capture.sequences.forks import NO_FORK
from gateway_plugins.trace_capture.sequences.trajectories import Branch, Tree
from gateway_plugins.trace_capture.sessions.owners import SqlParams
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.row_decoder import RowDecoder, UnreadableRow

log = logging.getLogger("gateway.trace_capture")

READ_SECONDS = 60.0
"""Seconds after which a session whose reader says nothing may be read by another."""

MAX_VERSION = 1 << 62
"""Weight versions beyond this are no numbers here."""

_GROWN = """
SELECT h.last_at, h.session_id, h.number, h.owner FROM handover_sessions AS h
WHERE h.grown = 1 AND h.read_until <= {until} AND {where} ORDER BY h.last_at {way} LIMIT :limit
"""
_READ = """
UPDATE handover_sessions SET reader = :reader, read_until = :until WHERE session_id = :session_id
"""
_DONE = """
UPDATE handover_sessions SET
    reader = NULL, read_until = 0, grown = CASE WHEN number = :number THEN 0 ELSE 1 END
WHERE session_id = :session_id AND reader = :reader
"""
_HARNESS = "SELECT coalesce(harness, '') FROM traces WHERE trace_id = :trace_id"


class Grown(NamedTuple):
    """A session that is to be read, up to its trace with this `number`."""

    last_at: float
    session_id: str
    number: int
    owner: str | None


def choose(db: Database, wanted: Wanted, most: int, reader: str) -> list[Grown]:
    """Choose sessions that have grown and are over, in the wanted order."""
    found = list(_grown(db, wanted, most, ":now"))
    for one in found:
        until = wanted.now + READ_SECONDS
        values: SqlParams = {"session_id": one.session_id, "reader": reader, "until": until}
        db.execute(_READ, values)
    return found


def first_grown(db: Database, wanted: Wanted) -> tuple[Grown | None, bool]:
    """Return the first session to choose, and whether there is one, perhaps read by others now."""
    found = next(_grown(db, wanted, 1, ":now"), None)
    return found, found is not None or any(_grown(db, wanted, 1, "9e99"))


def _grown(db: Database, wanted: Wanted, most: int, until: str) -> Iterator[Grown]:
    condition, params = of_sessions(wanted)
    way = "DESC" if wanted.order == "version" else "ASC"  # the newest calls have the newest weights
    if wanted.grown_from is not None:
        condition += " AND h.last_at >= :grown_from"
        params["grown_from"] = wanted.grown_from
    lists = []
    for is_over, more in over(wanted):
        query = _GROWN.format(until=until, where=f"{is_over} AND {condition}", way=way)
        rows = db.select(query, {**params, **more, "limit": most})
        lists.append([Grown(*row) for row in rows])
    ordered = merge(*lists, key=_last_at, reverse=way == "DESC")
    distinct = {one.session_id: one for one in ordered}
    return islice(distinct.values(), most)


def _last_at(one: Grown) -> float:
    return one.last_at


def traces_upto(db: Database, session_id: str, number: int) -> Iterator[Trace]:
    """Yield the session's traces with a number up to this one. Raises UnreadableRow."""
    decoder = RowDecoder(db)
    for row in queries.rows(db, queries.TraceFilter(session_ids=(session_id,))):
        if row.number > number:
            return
        yield decoder.trace(row)


def unfold(db: Database, session: Grown) -> list[Open]:
    """Return the session's trajectories with all of their turns; none if it cannot be read."""
    calls: dict[str, tuple[float, str]] = {}

    def noted() -> Iterator[Trace]:
        for trace in traces_upto(db, session.session_id, session.number):
            calls[trace.trace_id] = trace.timestamp, trace.model
            yield trace

    try:
        branches = list(Tree(noted()).branches())
    except UnreadableRow as error:
        log.warning("the session %r cannot be handed over: %s", session.session_id, error)
        return []
    return [_row(db, session, branch, *calls[branch.turns[-1].trace_id]) for branch in branches]


def _row(db: Database, session: Grown, branch: Branch, at: float, model: str) -> Open:
    leaf = branch.turns[-1]
    row = Open(
        session_id=session.session_id,
        trace_id=leaf.trace_id,
        choice=leaf.choice,
        owner=session.owner,
        at=at,
        model=model,
        harness=next((name for (name,) in db.select(_HARNESS, {"trace_id": leaf.trace_id})), ""),
        fork_kind=branch.fork_kind or NO_FORK,
        complete=int(branch.whole),
        version=None,
        tokens=len(leaf.data) // 4,
        upto=session.number,
        deliveries=0,
        turns="",
    )
    return with_turns(row, [_turn(turn) for turn in branch.turns])


def _turn(turn: trajectories.Turn) -> Turn:
    versions = set(turn.versions())
    return Turn(turn.trace_id, turn.choice, lowest(map(number_of, versions)))


def number_of(version: int | str | None) -> int | None:
    """Return a weight version as a number; None if it is none."""
    if isinstance(version, str):
        digits = version.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
            return None
        version = int(version)
    return version if version is not None and abs(version) <= MAX_VERSION else None


def note(db: Database, session: Grown, reader: str, rows: Iterable[Open]) -> None:
    """Store what `unfold` found, unless the session was deleted or read by another meanwhile.

    Trajectories that were open before stay only if none that is open now covers them.
    """
    values: SqlParams = {
        "session_id": session.session_id,
        "number": session.number,
        "reader": reader,
    }
    if not db.execute(_DONE, values):
        return
    taken, gone = held(db, session.session_id), settled(db, session.session_id)
    new = [
        with_turns(row, without(turns, gone))
        for row, turns in ((row, read_turns(row.turns)) for row in rows)
        if without(turns, taken)
    ]
    known, found = Coverage(new), {row.end: row for row in new}
    for before in open_rows(db, session.session_id):
        over = known.carry(before)
        if over is not None:
            delete(db, before)
            found[over.end] = over
    put(db, list(found.values()))
