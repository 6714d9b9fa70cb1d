"""Reads items: one, a page of them, and its place in the queue."""

from collections.abc import Iterator

import msgspec

from gateway import Database, Value
from gateway_plugins.batch.queue.items import Item
from gateway_plugins.batch.queue.texts import unpack

_COLUMNS = ", ".join(Item.__struct_fields__)
_ITEM = f"SELECT {_COLUMNS} FROM batch_items JOIN batch_lanes USING (lane)"


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
        return Item(**dict(zip(Item.__struct_fields__, row, strict=True)))
    return None


def items_of(db: Database, wanted: Wanted, limit: int) -> list[Item]:
    """Return at most `limit` items, the newest first."""
    conditions = [
        condition
        for condition, value in (
            ("lane IN (SELECT lane FROM batch_lanes WHERE owner = :owner)", wanted.owner),
            ("lane IN (SELECT lane FROM batch_lanes WHERE model = :model)", wanted.model),
            ("state = :state", wanted.state),
            ("number < :after", wanted.after),
        )
        if value is not None
    ]
    where = " AND ".join(conditions) or "1 = 1"
    rows = db.select(
        f"{_ITEM} WHERE {where} ORDER BY number DESC LIMIT :limit",
        {**msgspec.structs.asdict(wanted), "limit": limit},
    )
    return [Item(**dict(zip(Item.__struct_fields__, row, strict=True))) for row in rows]


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


_AHEAD = """
SELECT coalesce(sum(queued), 0) FROM batch_lanes WHERE model = :model AND priority > :priority
"""
_BEFORE = """
SELECT count(*) FROM batch_items JOIN batch_lanes USING (lane)
WHERE model = :model AND priority = :priority AND state = 0 AND number < :number
"""
MAX_PLACE = 10_000
"""Items of one priority that are counted at most for an estimate of a place."""


def place_of(db: Database, item: Item) -> int:
    """Return about how many items of its model come before a queued one."""
    named: dict[str, Value] = {
        "model": item.model,
        "priority": item.priority,
        "number": item.number,
    }
    [(ahead,)] = db.select(_AHEAD, named)
    [(before,)] = db.select(
        f"SELECT count(*) FROM ({_BEFORE.replace('count(*)', '1')} LIMIT {MAX_PLACE})", named
    )
    return int(ahead) + int(before)


class LaneCount(msgspec.Struct, frozen=True):
    """How many items of a model are queued and running."""

    model: str
    queued: int
    running: int


def counts(db: Database) -> Iterator[LaneCount]:
    """Yield the counts of each model that has items."""
    query = (
        "SELECT model, sum(queued), sum(running) FROM batch_lanes"
        " GROUP BY model HAVING sum(queued) + sum(running) > 0"
    )
    for model, queued, running in db.select(query):
        yield LaneCount(model, queued, running)


_OLDEST = """
SELECT min((SELECT submitted FROM batch_items WHERE number = (
    SELECT min(number) FROM batch_items AS i WHERE i.lane = l.lane AND state = 0 AND due = 0
))) FROM batch_lanes AS l WHERE queued > 0
"""


def oldest(db: Database) -> float | None:
    """Return when the oldest queued item was submitted, of those that need not wait longer."""
    [(submitted,)] = db.select(_OLDEST)
    return None if submitted is None else float(submitted)


def _at(number: int) -> dict[str, int]:
    return {"number": number}
