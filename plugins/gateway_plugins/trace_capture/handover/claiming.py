"""Gives open trajectories away for a time, and drops those whose weights are too old."""

import secrets
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from gateway import Database, Value
from gateway_plugins.trace_capture.handover.filters import Wanted, of_open
from gateway_plugins.trace_capture.handover.turns import (
    COLUMNS,
    DROPPED,
    LEASED,
    Key,
    Open,
    Turn,
    delete,
    forget_settled,
    held,
    lowest,
    pack_turns,
    read_turns,
    without,
)

MAX_TOKENS = 1_000_000
"""Tokens of all sequences of one response, unless a single one is longer."""

MAX_DROPPED = 500
"""Trajectories that are dropped in one transaction."""

NO_LIMIT = -1
"""As LIMIT in SQL: all rows, which are read as they are needed."""

_INSERT = f"INSERT INTO handover_claims (receipt, {COLUMNS}, taught, state, until)"

_ORDERS = {"age": "o.at", "version": "o.version DESC, o.at"}

_OPEN = """
SELECT {columns} FROM handover_open AS o CROSS JOIN handover_sessions AS h
WHERE h.session_id = o.session_id AND h.grown = 0 AND o.complete = :complete
    AND {version} AND {where} ORDER BY {order} LIMIT :limit
"""
_COLUMNS = ", ".join(f"o.{name}" for name in Open._fields)


class Claim(NamedTuple):
    """A trajectory that was handed out until `until` (Unix seconds), to teach some of its turns."""

    receipt: str
    row: Open
    taught: list[Turn]
    until: float


class Room:
    """How many trajectories, and tokens of them, one response has room for beside `claims`."""

    def __init__(self, count: int, claims: Sequence[Claim]) -> None:
        self.count = count - len(claims)
        self._tokens = MAX_TOKENS - sum(claim.row.tokens for claim in claims)
        self._empty = not claims

    def take(self, tokens: int) -> bool:
        """Whether there is room for one more, which is then taken; else there is none at all."""
        if self.count <= 0 or (tokens > self._tokens and not self._empty):
            self.count = 0
            return False
        self._empty = False
        self.count -= 1
        self._tokens -= tokens
        return True


def first_open(db: Database, wanted: Wanted) -> Open | None:
    """Return the first open trajectory that may be leased.

    It is found by a reader, so that a look at many that do not match holds up nobody who writes.
    """
    return next(_open(db, wanted, ">=", 1), None)


def lease(db: Database, wanted: Wanted, room: Room, until: float) -> list[Claim]:
    """Hand out open trajectories, as many as there are and have room."""
    found: list[Claim] = []
    while room.count > 0:
        leasing = _Leasing(db, until)
        for row in _open(db, wanted, ">=", room.count):
            if not leasing.offer(row, room):
                break
        found += leasing.claims
        if not leasing.emptied:  # all that were offered count
            break
    return found


class _Leasing:
    """One look at open trajectories; `emptied` of them had nothing left to teach."""

    def __init__(self, db: Database, until: float) -> None:
        self.claims: list[Claim] = []
        self.emptied = 0
        self._db = db
        self._until = until
        self._held: dict[str, set[Key]] = {}

    def offer(self, row: Open, room: Room) -> bool:
        """Hand a trajectory out; return whether there was room for it."""
        taken = self._held.get(row.session_id)
        if taken is None:
            taken = self._held[row.session_id] = held(self._db, row.session_id)
        turns = without(read_turns(row.turns), taken)
        if not turns:
            delete(self._db, row)
            self.emptied += 1
            return True
        if not room.take(row.tokens):
            return False
        taken |= {turn.key for turn in turns}
        given = row._replace(deliveries=row.deliveries + 1)
        self.claims.append(_insert(self._db, given, turns, LEASED, self._until))
        return True


def drop_stale(db: Database, wanted: Wanted) -> int:
    """Drop open trajectories of which a turn has too low a version; return how many.

    At most MAX_DROPPED. One whose old turns are held by another claim is left alone.
    """
    dropped = 0
    for row in list(islice(_droppable(db, wanted), MAX_DROPPED)):
        turns = without(read_turns(row.turns), held(db, row.session_id))
        if _is_stale(turns, wanted):  # still, after those before it
            _insert(db, row, turns, DROPPED, wanted.now)
            forget_settled(db, row.session_id)
            dropped += 1
    return dropped


def _droppable(db: Database, wanted: Wanted) -> Iterator[Open]:
    """Yield those that can be dropped, however many in front of them are left alone."""
    taken: dict[str, set[Key]] = {}
    for row in _select(db, replace(wanted, order="version", open_from=None), "<", NO_LIMIT):
        if row.session_id not in taken:
            taken[row.session_id] = held(db, row.session_id)
        if _is_stale(without(read_turns(row.turns), taken[row.session_id]), wanted):
            yield row


def _is_stale(turns: Sequence[Turn], wanted: Wanted) -> bool:
    version, bound = lowest(turn.version for turn in turns), wanted.min_version
    return version is not None and bound is not None and version < bound


def _insert(db: Database, row: Open, taught: list[Turn], state: int, until: float) -> Claim:
    """Store a claim in the place of the open trajectory."""
    receipt = secrets.token_hex(16)
    delete(db, row)
    db.insert(_INSERT, [(receipt, *row, pack_turns(taught), state, until)])
    return Claim(receipt, row, taught, until)


def _open(db: Database, wanted: Wanted, relation: str, limit: int) -> Iterator[Open]:
    """Return open trajectories in order, whose version has this relation to the wanted one."""
    found = list(_select(db, wanted, relation, limit))
    found.sort(key=_version_key if wanted.order == "version" else _age_key)
    return iter(found[:limit])


def _select(db: Database, wanted: Wanted, relation: str, limit: int) -> Iterator[Open]:
    """Yield up to `limit` COMPLETE ones in order, then as many INCOMPLETE ones, if wanted."""
    where, params = of_open(wanted)
    name = "o.version" if wanted.order == "version" else "+o.version"  # as with o.at in filters.py
    version = "TRUE" if wanted.min_version is None else f"{name} {relation} :min_version"
    query = _OPEN.format(
        columns=_COLUMNS, version=version, where=where, order=_ORDERS[wanted.order]
    )
    bounds: dict[str, Value] = {"limit": limit}
    if wanted.min_version is not None:
        bounds["min_version"] = wanted.min_version
    for complete in (1, 0) if wanted.filter.allow_incomplete else (1,):
        for row in db.select(query, {**params, **bounds, "complete": complete}):
            yield Open(*row)


def _age_key(row: Open) -> float:
    return row.at


def _version_key(row: Open) -> tuple[bool, int, float]:
    return row.version is None, -(row.version or 0), row.at
