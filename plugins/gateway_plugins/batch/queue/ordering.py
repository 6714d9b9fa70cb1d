"""The order in which lanes are served.

The lane comes next that has the highest effective priority; of those with the same, one whose owner
has the least work in flight; then one whose owner was served longest ago; then the one with the
oldest item. The effective priority is that of the lane, plus one for each `age_step` seconds in
which its first item has waited and none of the lane was begun; a lane that has waited like that for
`max_wait` comes before all others. So a lane that is served does not rise, however old its items
are: many items of one owner do not delay another's, and a low priority is not left out for ever.
"""

import math
from collections import Counter
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import msgspec


class Order(msgspec.Struct, frozen=True):
    """The options that decide the order; times in seconds. No pause is longer than `max_pause`."""

    age_step: float
    max_wait: float
    max_pause: float

    def rank(self, priority: int, waited: float) -> float:
        """Return the effective priority of a lane."""
        if waited >= self.max_wait:
            return math.inf
        return priority + max(waited, 0.0) // self.age_step


class Ready(msgspec.Struct, frozen=True):
    """A queued item that may run now."""

    number: int
    submitted: float


class Lane(msgspec.Struct, eq=False):
    """A lane with items that may run now: `first`, and those that follow.

    `begun` is when an item of the lane was last begun, in Unix seconds.
    """

    lane: int
    owner: str
    model: str
    priority: int
    begun: float
    first: Ready
    following: Iterator[Ready]

    def waited(self, now: float) -> float:
        """Seconds for which the first item has waited while none of the lane was begun.

        What lies in the future was written before the clock was set back, and counts for nothing.
        """
        since = [one for one in (self.first.submitted, self.begun) if one <= now]
        return now - max(since, default=now)


class Owners:
    """What owners have in flight, and in which order they were served."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self._turn = 0
        self._served: dict[str, tuple[float, int]] = {}

    def add(self, owner: str, running: int, begun: float) -> None:
        """Count what a lane of the owner has in flight."""
        self.running[owner] += running
        self._served[owner] = max(self.served(owner), (begun, 0))

    def serve(self, owner: str, now: float) -> None:
        self._turn += 1
        self.running[owner] += 1
        self._served[owner] = now, self._turn

    def served(self, owner: str) -> tuple[float, int]:
        return self._served.get(owner, (0.0, 0))


class Left(msgspec.Struct, frozen=True):
    """How many items may still be claimed: of each model, and of each lane."""

    models: dict[str, int]
    lanes: dict[int, int]

    def of(self, lane: int, model: str) -> int:
        return min(self.models[model], self.lanes[lane])

    def take(self, lane: int, model: str) -> None:
        self.models[model] -= 1
        self.lanes[lane] -= 1


Place = tuple[float, int, tuple[float, int], float, int]


class Queue:
    """Yields the items of lanes in their order, as long as there is room for them.

    A place in the order only gets worse while others are served, so a heap has it right: what comes
    up in a place that is out of date goes back.
    """

    def __init__(self, lanes: list[Lane], owners: Owners, order: Order, now: float) -> None:
        self._owners = owners
        self._order = order
        self._now = now
        self._heap = [(self._place(lane), lane) for lane in lanes]
        heapify(self._heap)

    def _place(self, lane: Lane) -> Place:
        rank = self._order.rank(lane.priority, lane.waited(self._now))
        owner = lane.owner
        in_flight, served = self._owners.running[owner], self._owners.served(owner)
        return -rank, in_flight, served, lane.first.submitted, lane.lane

    def next(self, left: Left) -> tuple[Lane, Ready] | None:
        """Return the next item for which something is left, and take it off that."""
        while self._heap:
            place, lane = heappop(self._heap)
            if left.of(lane.lane, lane.model) <= 0:
                continue
            if (now := self._place(lane)) != place:
                heappush(self._heap, (now, lane))
                continue
            left.take(lane.lane, lane.model)
            return lane, self._take(lane)
        return None

    def _take(self, lane: Lane) -> Ready:
        item = lane.first
        self._owners.serve(lane.owner, self._now)
        lane.begun = self._now
        following = next(lane.following, None)
        if following is not None:
            lane.first = following
            heappush(self._heap, (self._place(lane), lane))
        return item
