"""Reads items: one, a page of them, and its place in the queue."""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import Any

import msgspec

from gateway import Backlog, Database
from gateway_plugins.batch.queue.items import Item, Running
from gateway_plugins.batch.queue.texts import unpack

_COLUMNS = ", ".join(Item.__struct_fields__)
_ITEM = f"SELECT {_COLUMNS} FROM batch_items JOIN batch_lanes USING (lane)"

LAST = (1 << 63) - 1
"""No item has a larger number."""

MAX_COUNTED = 1_000
"""Items of a lane that are counted for an estimate of a place."""


class Wanted(msgspec.Struct, frozen=True):
    """Which items to list; None: any. `after`: those that came before the item of this number."""

    owner: str | None = None
    model: str | None = None
    state: int | None = None
    after: int | None = None


def item_of(db: Database, item_id: str, owner: str | None = None) -> Item | None:
    """Return the item of this id, and of this owner if one is given."""
    where = "" if owner is None else " AND owner = :owner"
    for row in db.select(f"{_ITEM} WHERE id = :id{where}", {"id": item_id, "owner": owner}):
        return _item(row)
    return None


def items_named(db: Database, item_ids: Iterable[str]) -> list[Item]:
    """Return those of the items that there are."""
    found = (item_of(db, item_id) for item_id in item_ids)
    return [item for item in found if item is not None]


_ALL = f"{_ITEM} WHERE number < :after ORDER BY number DESC LIMIT :limit"
_NEWEST = """
SELECT max(number) FROM batch_items WHERE lane = :lane AND state = :state AND number < :after
"""
_NEWEST_OF_EACH = """
SELECT lane, state, (
    SELECT max(number) FROM batch_items AS i
    WHERE i.lane = l.lane AND i.state = s.state AND number < :after
) FROM batch_lanes AS l
    CROSS JOIN (SELECT 0 AS state UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4) AS s
WHERE (:owner IS NULL OR owner = :owner) AND (:model IS NULL OR model = :model)
    AND (:state IS NULL OR state = :state)
"""


def items_of(db: Database, wanted: Wanted, limit: int) -> list[Item]:
    """Return at most `limit` items, the newest first.

    Takes time for each lane and for each item returned, not for the items that are passed over.
    """
    if wanted.owner is None and wanted.model is None and wanted.state is None:
        rows = db.select(_ALL, {"after": _after(wanted), "limit": limit})
        return [_item(row) for row in rows]
    found = []
    for number in list(islice(_numbers(db, wanted), limit)):
        found += [_item(row) for row in db.select(f"{_ITEM} WHERE number = :number", _at(number))]
    return found


def _numbers(db: Database, wanted: Wanted) -> Iterator[int]:
    """Yield the wanted items, the newest first: merges what each lane has in each state."""
    named = {**msgspec.structs.asdict(wanted), "after": _after(wanted)}
    rows = list(db.select(_NEWEST_OF_EACH, named))
    heap = [(-number, lane, state) for lane, state, number in rows if number is not None]
    heapify(heap)
    while heap:
        newest, lane, state = heap[0]
        yield -newest
        named = {"lane": lane, "state": state, "after": -newest}
        [(number,)] = db.select(_NEWEST, named)
        if number is None:
            heappop(heap)
        else:
            heapreplace(heap, (-number, lane, state))


def _after(wanted: Wanted) -> int:
    return LAST if wanted.after is None else min(wanted.after, LAST)


def _item(row: Sequence[Any]) -> Item:
    return Item(**dict(zip(Item.__struct_fields__, row, strict=True)))


def body_of(db: Database, number: int) -> bytes:
    """Return the request of an item; empty if it is not stored any more."""
    for (body,) in db.select("SELECT body FROM batch_bodies WHERE number = :number", _at(number)):
        return unpack(body)
    return b""


def answer_of(db: Database, number: int) -> bytes | None:
    """Return the body of the latest response to an item, None if there is none."""
    query = "SELECT answer FROM batch_answers WHERE number = :number"
    for (answer,) in db.select(query, _at(number)):
        return unpack(answer)
    return None


_LANES = """
SELECT lane, owner, priority, queued FROM batch_lanes
WHERE queued + running > 0 AND queued > 0 AND model = :model AND priority >= :priority
"""
_BEFORE = """
SELECT count(*) FROM (
    SELECT 1 FROM batch_items WHERE lane = :lane AND state = 0 AND number < :number LIMIT :most
)
"""
_FIRST = "SELECT min(number) FROM batch_items WHERE lane = :lane AND state = 0"


def place_of(db: Database, item: Item) -> int:
    """Return about how many items of its model come before a queued one.

    Those are the ones before it in its lane, those of higher priority, and of each other owner as
    many of the same priority, because owners take turns.
    """
    lanes = list(db.select(_LANES, {"model": item.model, "priority": item.priority}))
    before = 0
    for lane, owner, priority, queued in lanes:
        if owner == item.owner and priority == item.priority:
            before = _before(db, lane, item.number, queued)
    others: list[int] = [
        queued if priority > item.priority else min(queued, before + 1)
        for _, owner, priority, queued in lanes
        if owner != item.owner or priority > item.priority
    ]
    return before + sum(others)


def _before(db: Database, lane: int, number: int, queued: int) -> int:
    """Count the items of the lane before this one; more than MAX_COUNTED are estimated."""
    named = {"lane": lane, "number": number, "most": MAX_COUNTED}
    [(before,)] = db.select(_BEFORE, named)
    if before < MAX_COUNTED:
        return int(before)
    [(first,)] = db.select(_FIRST, {"lane": lane})
    return max(MAX_COUNTED, min(queued - 1, number - int(first)))


def running(db: Database, holder: int) -> set[Running]:
    """Return what a process runs, as the rows say."""
    query = "SELECT number, holder, attempts, charged FROM batch_items WHERE holder = :holder"
    return {Running(*row) for row in db.select(query, {"holder": holder})}


class LaneCount(msgspec.Struct, frozen=True):
    """How many items of a model are queued and running."""

    model: str
    queued: int
    running: int


_COUNTS = """
SELECT model, sum(queued), sum(running) FROM batch_lanes WHERE queued + running > 0 GROUP BY model
"""


def counts(db: Database) -> Iterator[LaneCount]:
    """Yield the counts of each model that has items."""
    for model, queued, running in db.select(_COUNTS):
        yield LaneCount(model, queued, running)


_FIRST_OF_LANE = """
SELECT submitted FROM batch_items WHERE number = (
    SELECT min(number) FROM batch_items AS i WHERE i.lane = l.lane AND state = 0
)
"""
_BACKLOG = f"""
SELECT model, sum(queued), sum(running), min(({_FIRST_OF_LANE})),
    max(CASE WHEN queued > 0 THEN priority END)
FROM batch_lanes AS l WHERE queued + running > 0 GROUP BY model
"""


def backlog(db: Database) -> dict[str, Backlog]:
    """Return what has not ended, by model."""
    return {
        model: Backlog(queued=queued, running=running, oldest=oldest, priority=priority or 0)
        for model, queued, running, oldest, priority in db.select(_BACKLOG)
    }


class Depth(msgspec.Struct, frozen=True):
    """What one key has in the queue of one model. `oldest` is when the first was submitted."""

    model: str
    owner: str
    queued: int
    running: int
    oldest: float | None
    priority: int | None


_DEPTHS = f"""
SELECT model, owner, sum(queued), sum(running), min(({_FIRST_OF_LANE})),
    max(CASE WHEN queued > 0 THEN priority END)
FROM batch_lanes AS l WHERE queued + running > 0 GROUP BY model, owner ORDER BY 3 DESC, 1, 2
"""


def depths(db: Database) -> list[Depth]:
    """Return what has not ended, by model and key, the longest queue first."""
    return [Depth(*row) for row in db.select(_DEPTHS)]


_OLDEST = """
SELECT min((SELECT submitted FROM batch_items WHERE number = (
    SELECT min(number) FROM batch_items AS i WHERE i.lane = l.lane AND state = 0 AND due = 0
))) FROM batch_lanes AS l WHERE queued + running > 0
"""


def oldest(db: Database) -> float | None:
    """Return when the oldest queued item was submitted, of those that need not wait longer."""
    [(submitted,)] = db.select(_OLDEST)
    return None if submitted is None else float(submitted)


def _at(number: int) -> dict[str, int]:
    return {"number": number}
