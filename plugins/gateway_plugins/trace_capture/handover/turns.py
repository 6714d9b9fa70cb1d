"""Which turns of a session belong to which claim: each to at most one that holds.

A turn is a choice of a trace. An open trajectory has the turns that it would teach if no claim held
any of them; a claim has those that it teaches. Each turn of a session that was read is in an open
trajectory or in a claim that holds, so none is lost, and what an acknowledged claim has is never
given to another.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import msgspec

from gateway import Database

LEASED, ACKNOWLEDGED, DROPPED, EXPIRED, RELEASED, UNREADABLE = range(6)
"""States of a claim, which holds in the first three; nobody got one DROPPED or UNREADABLE."""

Key = tuple[str, int]
"""A trace, and the position of a choice in it."""


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """A turn to teach; `version` is the lowest of its tokens, None if one is no number."""

    trace_id: str
    choice: int
    version: int | None

    @property
    def key(self) -> Key:
        return self.trace_id, self.choice


class Open(NamedTuple):
    """A row of `handover_open`: the trajectory that ends with a choice of a trace.

    `at` is the time of that trace's call, in Unix seconds; `version` the lowest of the turns'
    (None: not known), `tokens` the length of the sequence. The trajectory is that of the session's
    traces with a number up to `upto`. It was handed out `deliveries` times. `turns`, as JSON, are
    those that were not settled when it was stored.
    """

    session_id: str
    trace_id: str
    choice: int
    owner: str | None
    at: float
    model: str
    harness: str
    fork_kind: str
    complete: int
    version: int | None
    tokens: int
    upto: int
    deliveries: int
    turns: str

    @property
    def end(self) -> Key:
        """What no other trajectory of the session has."""
        return self.trace_id, self.choice


COLUMNS = ", ".join(Open._fields)

_INSERT = f"INSERT INTO handover_open ({COLUMNS})"
_REPLACE = "ON CONFLICT (session_id, trace_id, choice) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in Open._fields[3:]
)
_OF_SESSION = f"SELECT {COLUMNS} FROM handover_open WHERE session_id = :session_id"
_DELETE = """
DELETE FROM handover_open
WHERE session_id = :session_id AND trace_id = :trace_id AND choice = :choice
"""
_HELD, _SETTLED = (
    f"SELECT taught FROM handover_claims WHERE session_id = :session_id AND state IN {states}"
    for states in ((LEASED, ACKNOWLEDGED, DROPPED), (ACKNOWLEDGED, DROPPED))
)

_decode = msgspec.json.Decoder(list[Turn]).decode


def read_turns(packed: str) -> list[Turn]:
    return _decode(packed)


def pack_turns(turns: Sequence[Turn]) -> str:
    return msgspec.json.encode(turns).decode()


def with_turns(row: Open, turns: Sequence[Turn]) -> Open:
    """Return the trajectory with these turns, of which there is at least one."""
    return row._replace(turns=pack_turns(turns), version=lowest(turn.version for turn in turns))


def lowest(versions: Iterable[int | None]) -> int | None:
    """Return the lowest version; None if one is not known."""
    found = set(versions)
    return None if None in found else min((one for one in found if one is not None), default=None)


def open_rows(db: Database, session_id: str) -> list[Open]:
    return [Open(*row) for row in db.select(_OF_SESSION, {"session_id": session_id})]


def put(db: Database, rows: Sequence[Open]) -> None:
    """Store open trajectories; one that ends with the same choice is replaced."""
    db.insert(_INSERT, rows, _REPLACE)


def delete(db: Database, row: Open) -> None:
    names = ("session_id", "trace_id", "choice")
    db.execute(_DELETE, {name: getattr(row, name) for name in names})


def held(db: Database, session_id: str) -> set[Key]:
    """Return the turns of the claims that hold."""
    return _claimed(db, session_id, _HELD)


def settled(db: Database, session_id: str) -> set[Key]:
    """Return the turns that are never handed out again."""
    return _claimed(db, session_id, _SETTLED)


def _claimed(db: Database, session_id: str, query: str) -> set[Key]:
    rows = db.select(query, {"session_id": session_id})
    return {turn.key for (packed,) in rows for turn in read_turns(packed)}


def without(turns: Iterable[Turn], keys: Collection[Key]) -> list[Turn]:
    return [turn for turn in turns if turn.key not in keys]


def forget_settled(db: Database, session_id: str) -> None:
    """Take out of the open trajectories what was settled since they were stored."""
    rows = open_rows(db, session_id)
    gone = settled(db, session_id) if rows else set()
    for row in rows:
        turns = read_turns(row.turns)
        left = without(turns, gone)
        if not left:
            delete(db, row)
        elif len(left) < len(turns):
            put(db, [with_turns(row, left)])


def give_back(db: Database, session_id: str, rows: Iterable[Open]) -> None:
    """Open trajectories of a session whose claims do not hold any more, if nobody has their turns.

    If an open trajectory covers one, as one that grew out of it, that one is enough.
    What stays open has the deliveries of what it replaces.
    """
    taken, opened = held(db, session_id), Coverage(open_rows(db, session_id))
    for row in rows:
        turns = without(read_turns(row.turns), taken)
        if not turns:
            continue
        back = with_turns(row, turns)
        found = opened.carry(back)
        if found is None:
            for other in opened.take_within(back):
                delete(db, other)
                back = _carried(back, other)
            opened.add(back)
            found = back
        put(db, [found])


class _Keyed(NamedTuple):
    """An open trajectory and the keys of its turns; `last` is that of the deepest."""

    row: Open
    keys: frozenset[Key]
    last: Key

    @property
    def end(self) -> Key:
        return self.row.end


class Coverage:
    """Open trajectories of a session, found by their turns: a tree may have thousands of them.

    A trajectory covers another if it has all of its turns and is no worse. Each has a turn.
    """

    def __init__(self, rows: Iterable[Open] = ()) -> None:
        self._having: defaultdict[Key, dict[Key, _Keyed]] = defaultdict(dict)
        self._ending: defaultdict[Key, dict[Key, _Keyed]] = defaultdict(dict)
        for row in rows:
            self.add(row)

    def add(self, row: Open) -> None:
        one = _keyed(row)
        self._ending[one.last][one.end] = one
        for key in one.keys:
            self._having[key][one.end] = one

    def carry(self, row: Open) -> Open | None:
        """Return one that covers the row, with the row's deliveries if these are more, else None.

        That is the one with the same end, if there is one. It has these deliveries here, too.
        """
        wanted = _keyed(row)
        having = self._having[wanted.last]
        same = [having[wanted.end]] if wanted.end in having else []
        found = next((one for one in chain(same, having.values()) if _covers(one, wanted)), None)
        if found is None:
            return None
        carried = _carried(found.row, row)
        if carried != found.row:
            self.add(carried)
        return carried

    def take_within(self, row: Open) -> list[Open]:
        """Take out those that the row covers, and return them."""
        whole = _keyed(row)
        found = [
            one for key in whole.keys for one in self._ending[key].values() if _covers(whole, one)
        ]
        for one in found:
            del self._ending[one.last][one.end]
            for key in one.keys:
                del self._having[key][one.end]
        return [one.row for one in found]


def _carried(row: Open, replaced: Open) -> Open:
    return row._replace(deliveries=max(row.deliveries, replaced.deliveries))


def _keyed(row: Open) -> _Keyed:
    keys = [turn.key for turn in read_turns(row.turns)]
    return _Keyed(row, frozenset(keys), keys[-1])


def _covers(one: _Keyed, other: _Keyed) -> bool:
    return one.row.complete >= other.row.complete and other.keys <= one.keys
