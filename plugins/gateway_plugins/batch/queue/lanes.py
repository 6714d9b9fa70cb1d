"""Lanes, and the counts of their items.

A lane with items that are queued or running is busy. Queries name `queued + running > 0`, as the
index of the busy lanes does, so that lanes which only have ended items cost nothing.
"""

from collections import Counter

from gateway import Database, TooManyRequests, Value
from gateway_plugins.batch.queue.items import QUEUED, RUNNING

MAX_BUSY = 256
"""Busy lanes of one owner: each claim looks at all busy lanes, and callers make up the models."""

LANE = "SELECT lane FROM batch_lanes WHERE owner = :owner AND model = :model AND priority = :rank"
NEW_LANE = "INSERT INTO batch_lanes (owner, model, priority) VALUES (:owner, :model, :rank)"

_CHANGE = (
    "UPDATE batch_lanes SET queued = queued + :queued, running = running + :running,"
    " begun = coalesce(:begun, begun) WHERE lane = :lane"
)
_DELETE = (
    "DELETE FROM batch_lanes WHERE lane = :lane AND queued + running = 0"
    " AND NOT EXISTS (SELECT 1 FROM batch_items WHERE lane = :lane)"
)


def lane_of(db: Database, owner: str, model: str, priority: int) -> int:
    """Return the lane of these; creates it if there is none."""
    named: dict[str, Value] = {"owner": owner, "model": model, "rank": priority}
    for (lane,) in list(db.select(LANE, named)):
        return int(lane)
    db.execute(NEW_LANE, named)
    [(lane,)] = db.select(LANE, named)
    return int(lane)


def check_busy(db: Database, owner: str) -> None:
    """Raise TooManyRequests if the owner has more than MAX_BUSY busy lanes."""
    query = "SELECT count(*) FROM batch_lanes WHERE owner = :owner AND queued + running > 0"
    [(busy,)] = db.select(query, {"owner": owner})
    if busy > MAX_BUSY:
        message = f"this key has items of {MAX_BUSY} models and priorities, and may have no more"
        raise TooManyRequests(message)


def delete_unused(db: Database, lane: int) -> None:
    """Delete a lane that has no items left."""
    db.execute(_DELETE, {"lane": lane})


class Counts:
    """Changes to the counts of lanes within one transaction."""

    def __init__(self) -> None:
        self._queued: Counter[int] = Counter()
        self._running: Counter[int] = Counter()

    def move(self, lane: int, before: int | None, after: int | None, items: int = 1) -> None:
        """Count `items` that went from state `before` to `after`; None: there was, or is, none."""
        self._queued[lane] += items * ((after == QUEUED) - (before == QUEUED))
        self._running[lane] += items * ((after == RUNNING) - (before == RUNNING))

    def write(self, db: Database, begun: float | None = None) -> None:
        """Change the lanes. `begun`: items of each of them are begun, at this time."""
        for lane in self._queued.keys() | self._running.keys():
            queued, running = self._queued[lane], self._running[lane]
            if queued or running:
                named = {"lane": lane, "queued": queued, "running": running, "begun": begun}
                db.execute(_CHANGE, named)


def queued(db: Database, owner: str | None = None) -> int:
    """Return how many items are queued, of one owner or in all."""
    where = "" if owner is None else " AND owner = :owner"
    query = f"SELECT coalesce(sum(queued), 0) FROM batch_lanes WHERE queued + running > 0{where}"
    [(count,)] = db.select(query, {"owner": owner})
    return int(count)


def reserved(db: Database, owner: str | None = None) -> int:
    """Return how many lines of batches are still to be queued, of one owner or in all."""
    where = "" if owner is None else " AND owner = :owner"
    query = f"SELECT coalesce(sum(reserved), 0) FROM batches WHERE reserved > 0{where}"
    [(count,)] = db.select(query, {"owner": owner})
    return int(count)
