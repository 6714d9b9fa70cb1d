"""Chooses the items that run next, and marks them as running, in one transaction.

The order is: effective priority, the owner with the least work in flight, the owner served longest
ago, age. An item's effective priority is its own, plus one for each `age_step` seconds that it has
waited; an item that has waited for `max_wait` comes before all others. Only the first item of each
lane is looked at, so the time does not depend on how many are queued.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from gateway import Database, Value
from gateway_plugins.batch.queue.holders import Holder
from gateway_plugins.batch.queue.items import QUEUED, RUNNING, Claimed
from gateway_plugins.batch.queue.lanes import Counts

_HEADS = """
SELECT lane, owner, model, priority, running, (
    SELECT min(number) FROM batch_items AS i WHERE i.lane = l.lane AND state = 0 AND due = 0
), (
    SELECT min(due) FROM batch_items AS i WHERE i.lane = l.lane AND state = 0 AND due > 0
) FROM batch_lanes AS l WHERE queued > 0
"""
_SUBMITTED = "SELECT submitted FROM batch_items WHERE number = :number"
_AGAIN = (
    "SELECT number FROM batch_items WHERE lane = :lane AND state = 0 AND due > 0 AND due <= :now"
    " ORDER BY due LIMIT :most"
)
_FRESH = (
    "SELECT number FROM batch_items WHERE lane = :lane AND state = 0 AND due = 0"
    " ORDER BY number LIMIT :most"
)
_CLAIM = (
    "UPDATE batch_items SET state = 1, holder = :holder, started = :now, due = 0,"
    " attempts = attempts + 1 WHERE number IN ({})"
)
_CLAIMED = """
SELECT i.number, id, i.lane, kind, path, model, batch, attempts, charged, deadline, holder,
    content, coalesce(body, '')
FROM batch_items AS i JOIN batch_lanes AS l ON l.lane = i.lane
    LEFT JOIN batch_bodies AS b ON b.number = i.number
    LEFT JOIN batch_principals AS p ON p.number = i.principal WHERE i.number IN ({})
"""
_HASTEN = "UPDATE batch_items SET due = :now WHERE lane = :lane AND state = 0 AND due > :now"

NO_LANES: Mapping[int, int] = {}


class Order(msgspec.Struct, frozen=True):
    """The options that decide the order; times in seconds. No pause is longer than `max_pause`."""

    age_step: float
    max_wait: float
    max_pause: float

    def rank(self, priority: int, waited: float) -> float:
        """Return the effective priority of an item."""
        if waited >= self.max_wait:
            return math.inf
        return priority + max(waited, 0.0) // self.age_step


class Lane(msgspec.Struct, eq=False):
    """A lane with items that may run now: `rank` is that of its first, which came at `since`."""

    lane: int
    owner: str
    model: str
    rank: float
    since: float
    numbers: Iterator[int]


class Claims(msgspec.Struct):
    """`items` run now. `next_due` is when the next of those that wait may be tried again."""

    items: list[Claimed]
    next_due: float | None = None


class Claiming:
    """Claims for the process of the `holder`; remembers the owners that were served of late."""

    def __init__(self, order: Order, holder: Holder) -> None:
        self.order = order
        self._holder = holder
        self._turn = 0
        self._served: dict[str, int] = {}

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
        """
        self._holder.assure(db)
        running: Counter[str] = Counter()
        lanes, dues = self._heads(db, now, most, running)
        left, left_of = dict(room), dict(of_lanes)
        chosen: list[tuple[int, int]] = []
        while lanes and len(chosen) < most:
            lane = min(lanes, key=lambda one: self._place(one, running))
            spare, spare_of = left.get(lane.model, others), left_of.get(lane.lane, most)
            number = next(lane.numbers, None) if min(spare, spare_of) > 0 else None
            if number is None:
                lanes.remove(lane)
                continue
            left[lane.model], left_of[lane.lane] = spare - 1, spare_of - 1
            running[lane.owner] += 1
            self._serve(lane.owner)
            chosen.append((number, lane.lane))
        return Claims(self._claimed(db, chosen, now), min(dues, default=None))

    def _place(self, lane: Lane, running: Counter[str]) -> tuple[float, int, int, float]:
        served = self._served.get(lane.owner, 0)
        return -lane.rank, running[lane.owner], served, lane.since

    def _serve(self, owner: str) -> None:
        self._turn += 1
        self._served.pop(owner, None)
        self._served[owner] = self._turn
        if len(self._served) > 10_000:  # the one that was served longest ago
            del self._served[next(iter(self._served))]

    def _heads(
        self, db: Database, now: float, most: int, running: Counter[str]
    ) -> tuple[list[Lane], list[float]]:
        """Return the lanes with items that may run, and when items of others may."""
        lanes: list[Lane] = []
        dues: list[float] = []
        for lane, owner, model, priority, busy, fresh, due in list(db.select(_HEADS)):
            running[owner] += busy
            if due is not None and due > now + 2 * self.order.max_pause:
                _hasten(db, lane, now)
                due = now
            if due is not None and due > now:
                dues.append(due)
            if fresh is None and (due is None or due > now):
                continue
            since = due if fresh is None else _since(db, fresh)
            rank = self.order.rank(priority, now - since)
            numbers = _numbers(db, lane, now, most)
            lanes.append(Lane(lane, owner, model, rank, since, numbers))
        return lanes, dues

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
        counts.write(db)
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


def _hasten(db: Database, lane: int, now: float) -> None:
    """Let the lane's items run now: the clock was set back after their pauses began."""
    db.execute(_HASTEN, {"lane": lane, "now": now})


def _since(db: Database, number: int) -> float:
    [(submitted,)] = db.select(_SUBMITTED, {"number": number})
    return float(submitted)


def _numbers(db: Database, lane: int, now: float, most: int) -> Iterator[int]:
    """Yield items of the lane that may run: those to be tried again first. Reads when asked for."""
    named = {"lane": lane, "now": now, "most": most}
    for query in (_AGAIN, _FRESH):
        for (number,) in list(db.select(query, named)):
            yield number
