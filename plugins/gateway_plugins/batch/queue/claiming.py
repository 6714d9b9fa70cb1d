"""Chooses the items that run next, and marks them as running, in one transaction.

Only the first item of each busy lane is looked at, so the time does not depend on how many are
queued. In a lane, items that are to be tried again come first, and then the oldest.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway import Database, Value
from gateway_plugins.batch.queue.holders import Holder
from gateway_plugins.batch.queue.items import QUEUED, RUNNING, Claimed
from gateway_plugins.batch.queue.lanes import Counts
from gateway_plugins.batch.queue.ordering import Lane, Left, Order, Owners, Queue, Ready

_BUSY = """
SELECT l.lane, owner, model, priority, begun, queued, running, (
    SELECT min(due) FROM batch_items WHERE lane = l.lane AND state = 0 AND due > 0
), i.number, i.submitted, i.deadline
FROM batch_lanes AS l LEFT JOIN batch_items AS i ON i.number = (
    SELECT min(number) FROM batch_items WHERE lane = l.lane AND state = 0 AND due = 0
) WHERE queued + running > 0
"""
_AGAIN = """
SELECT number, submitted, deadline FROM batch_items
WHERE lane = :lane AND state = 0 AND due > 0 AND due <= :now ORDER BY due, number LIMIT :most
"""
_FRESH = """
SELECT number, submitted, deadline FROM batch_items
WHERE lane = :lane AND state = 0 AND due = 0 AND number > :after ORDER BY number LIMIT :most
"""
_CLAIM = """
UPDATE batch_items SET state = 1, holder = :holder, started = :now, due = 0, attempts = attempts + 1
WHERE number IN ({})
"""
_CLAIMED = """
SELECT i.number, i.id, i.lane, kind, path, model, batch, holder, attempts, charged, deadline,
    content, coalesce(body, x''), traceparent
FROM batch_items AS i JOIN batch_lanes AS l ON l.lane = i.lane
    LEFT JOIN batch_bodies AS b ON b.number = i.number
    LEFT JOIN batch_principals AS p ON p.number = i.principal WHERE i.number IN ({})
"""
_HASTEN = "UPDATE batch_items SET due = :now WHERE lane = :lane AND state = 0 AND due > :now"

NO_LANES: Mapping[int, int] = {}


class Claims(msgspec.Struct):
    """`items` run now. `next_due` is when the next of those that wait may be tried again."""

    items: list[Claimed]
    next_due: float | None = None


class Claiming:
    """Claims for the process that has `holder`."""

    def __init__(self, order: Order, holder: Holder) -> None:
        self._order = order
        self._holder = holder

    def claim(
        self,
        db: Database,
        room: Mapping[str, int],
        others: int,
        now: float,
        most: int,
        of_lanes: Mapping[int, int] = NO_LANES,
    ) -> Claims:
        """Claim up to `most` items: of each model as many as `room` says, else up to `others`.

        `others` is the room of each model that `room` does not name; `of_lanes` that of some lanes.
        Items whose deadline has passed are left to `changes.expire`. Raises StorageError.
        """
        self._holder.ensure(db)
        return self.claim_more(db, room, others, now, most, of_lanes)

    def claim_more(
        self,
        db: Database,
        room: Mapping[str, int],
        others: int,
        now: float,
        most: int,
        of_lanes: Mapping[int, int] = NO_LANES,
    ) -> Claims:
        """Claim as `claim` does, for a process that is registered."""
        left = Left(defaultdict(lambda: others, room), defaultdict(lambda: most, of_lanes))
        looking = _Looking(db, self._order, now, most)
        queue = Queue(list(looking.lanes(left)), looking.owners, left, self._order, now)
        chosen: list[tuple[int, int]] = []
        while len(chosen) < most and (found := queue.next()) is not None:
            lane, item = found
            chosen.append((item.number, lane.lane))
        return Claims(self._claimed(db, chosen, now), looking.next_due)

    def is_registered(self, db: Database) -> bool:
        """Whether others know of this process; `claim` registers it if they do not."""
        return self._holder.is_known(db)

    def _claimed(
        self, db: Database, chosen: Sequence[tuple[int, int]], now: float
    ) -> list[Claimed]:
        if not chosen:
            return []
        counts = Counts()
        for _, lane in chosen:
            counts.move(lane, QUEUED, RUNNING)
        marks, named = _listed([number for number, _ in chosen])
        db.execute(_CLAIM.format(marks), {**named, "holder": self._holder.number, "now": now})
        counts.write(db, begun=now)
        rows = {row[0]: row for row in db.select(_CLAIMED.format(marks), named)}
        return [Claimed(*rows[number]) for number, _ in chosen]


def _listed(numbers: Sequence[int]) -> tuple[str, dict[str, Value]]:
    """Return the parameters for a list of numbers, and their values.

    The list has a power of two as its length, so that there are few distinct statements, which the
    database keeps prepared; the last number fills it up.
    """
    length = 1 << (len(numbers) - 1).bit_length()
    named: dict[str, Value] = {
        f"n{place}": numbers[min(place, len(numbers) - 1)] for place in range(length)
    }
    return ", ".join(f":{name}" for name in named), named


class _Looking:
    """Reads the lanes. `next_due` is the earliest time at which an item may be tried again."""

    def __init__(self, db: Database, order: Order, now: float, most: int) -> None:
        self.owners = Owners()
        self.next_due: float | None = None
        self._db = db
        self._now = now
        self._latest = now + 2 * order.max_pause
        self._most = most

    def lanes(self, left: Left) -> Iterator[Lane]:
        """Yield the lanes with items that may run now and have room."""
        for row in list(self._db.select(_BUSY)):
            lane, owner, model, priority, begun, queued, running, due, *fresh = row
            self.owners.add(owner, running, begun)
            if not queued or left.of(lane, model) <= 0:
                continue
            items = self._items(lane, due, fresh)
            first = next(items, None)
            if first is not None:
                yield Lane(lane, owner, model, priority, begun, first, items)

    def _items(self, lane: int, due: float | None, fresh: Sequence[Any]) -> Iterator[Ready]:
        """Yield what may run now, reading no further than it is asked for.

        `due` is that of the first item to be tried again, `fresh` the first of the others.
        """
        if due is not None and due > self._latest:
            self._hasten(lane)
            due = self._now
        if due is not None and due > self._now:
            self.next_due = min(due, self.next_due or due)
        elif due is not None:
            yield from self._ready(_AGAIN, lane, 0)
        number, submitted, deadline = fresh
        if number is not None:
            if deadline > self._now:
                yield Ready(number, submitted)
            yield from self._ready(_FRESH, lane, number)

    def _ready(self, query: str, lane: int, after: int) -> Iterator[Ready]:
        named = {"lane": lane, "now": self._now, "after": after, "most": self._most}
        for number, submitted, deadline in list(self._db.select(query, named)):
            if deadline > self._now:
                yield Ready(number, submitted)

    def _hasten(self, lane: int) -> None:
        """Let the lane's items run now: the clock was set back after their pauses began."""
        self._db.execute(_HASTEN, {"lane": lane, "now": self._now})
