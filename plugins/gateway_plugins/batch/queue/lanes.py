"""Lanes, and the counts of their items."""

from collections import Counter

from gateway import Database, Value
from gateway_plugins.batch.queue.items import QUEUED, RUNNING

LANE = "SELECT lane FROM batch_lanes WHERE owner = :owner AND model = :model AND priority = :rank"
NEW_LANE = "INSERT INTO batch_lanes (owner, model, priority) VALUES (:owner, :model, :rank)"


def lane_of(db: Database, owner: str, model: str, priority: int) -> int:
    """Return the lane of these; creates it if there is none."""
    named: dict[str, Value] = {"owner": owner, "model": model, "rank": priority}
    for (lane,) in db.select(LANE, named):
        return int(lane)
    db.execute(NEW_LANE, named)
    [(lane,)] = db.select(LANE, named)
    return int(lane)


class Counts:
    """Changes to the counts of lanes within one transaction."""

    def __init__(self) -> None:
        self._queued: Counter[int] = Counter()
        self._running: Counter[int] = Counter()

    def move(self, lane: int, before: int | None, after: int | None, items: int = 1) -> None:
        """Count `items` that went from state `before` to `after`; None: there was, or is, none."""
        self._queued[lane] += items * ((after == QUEUED) - (before == QUEUED))
        self._running[lane] += items * ((after == RUNNING) - (before == RUNNING))

    def write(self, db: Database) -> None:
        for lane in self._queued.keys() | self._running.keys():
            queued, running = self._queued[lane], self._running[lane]
            if queued or running:
                db.execute(
                    "UPDATE batch_lanes SET queued = queued + :queued, running = running + :running"
                    " WHERE lane = :lane",
                    {"lane": lane, "queued": queued, "running": running},
                )


def queued(db: Database, owner: str | None = None) -> int:
    """Return how many items are queued, of one owner or in all."""
    where = "" if owner is None else " WHERE owner = :owner"
    query = f"SELECT coalesce(sum(queued), 0) FROM batch_lanes{where}"
    [(count,)] = db.select(query, {"owner": owner})
    return int(count)
