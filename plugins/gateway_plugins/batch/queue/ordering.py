"""The order in which lanes are served.

The lane comes next that has the highest effective priority; of those with the same, one whose owner
has the least work in flight; then one whose owner was served longest ago; then the one with the
oldest item. The effective priority is that of the lane. For the owner whose turn it is (the least
work in flight, served longest ago) it is higher by one for each `age_step` seconds that the first
item of the lane has waited. So an item of low priority has its turn in time, and many old items of
one owner do not delay another's. A lane of which no item was begun for `max_wait`, while it had
some, comes before all others.
"""

import math
from collections import Counter
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace

import msgspec


class Order(msgspec.Struct, frozen=True):
    """The options that decide the order; times in seconds. No pause is longer than `max_pause`."""

    age_step: float
    max_wait: float
    max_pause: float


class Ready(msgspec.Struct, frozen=True):
    """A queued item that may run now."""

    number: int
    submitted: float


class Lane(msgspec.Struct, eq=False):
    """A lane with items that may run now: `first`, and those that follow. None: there is none.

    `begun` is when an item of the lane was last begun, in Unix seconds. `taken` counts the items
    that were taken from it. `ranks` are the effective priorities out of its owner's turn and in it.
    """

    lane: int
    owner: str
    model: str
    priority: int
    begun: float
    first: Ready | None
    following: Iterator[Ready]
    taken: int = 0
    ranks: tuple[float, float] = (0.0, 0.0)

    @property
    def submitted(self) -> float:
        assert self.first is not None
        return self.first.submitted

    def look(self, order: Order, now: float) -> None:
        """Find the ranks.

        What lies in the future was written before the clock was set back, and counts for nothing.
        """
        since = [one for one in (self.submitted, self.begun) if one <= now]
        if now - max(since, default=now) >= order.max_wait:
            self.ranks = math.inf, math.inf
        else:
            steps = max(now - self.submitted, 0.0) // order.age_step
            self.ranks = self.priority, self.priority + steps


Turn = tuple[int, tuple[float, int]]
"""What an owner has in flight, and when it was served."""


class Owners:
    """What owners have in flight, and in which order they were served."""

    def __init__(self) -> None:
        self._turn = 0
        self._running: Counter[str] = Counter()
        self._served: dict[str, tuple[float, int]] = {}

    def add(self, owner: str, running: int, begun: float) -> None:
        """Count what a lane of the owner has in flight."""
        self._running[owner] += running
        self._served[owner] = max(self._served.get(owner, (0.0, 0)), (begun, 0))

    def serve(self, owner: str, now: float) -> None:
        self._turn += 1
        self._running[owner] += 1
        self._served[owner] = now, self._turn

    def turn(self, owner: str) -> Turn:
        """Return the owner's place among the owners: the least has its turn."""
        return self._running[owner], self._served[owner]


class Left(msgspec.Struct, frozen=True):
    """How many items may still be claimed: of each model, and of each lane."""

    models: dict[str, int]
    lanes: dict[int, int]

    def of(self, lane: int, model: str) -> int:
        return min(self.models[model], self.lanes[lane])

    def take(self, lane: int, model: str) -> None:
        self.models[model] -= 1
        self.lanes[lane] -= 1


Place = tuple[float, Turn, float, int]

Waiting = list[tuple[Place, int, Lane]]
"""A heap of lanes by their places. An entry is out of date once an item was taken from the lane."""


class Queue:
    """Yields the items of lanes in their order, as long as something is left for them.

    The place of a lane gets worse while other lanes are served, so heaps have it right: what comes
    up with a place that is out of date goes back.
    """

    def __init__(
        self, lanes: list[Lane], owners: Owners, left: Left, order: Order, now: float
    ) -> None:
        self._owners = owners
        self._left = left
        self._order = order
        self._now = now
        self._latest: Lane | None = None
        self._all: Waiting = []
        self._aged: dict[str, Waiting] = {lane.owner: [] for lane in lanes}
        for lane in lanes:
            self._add(lane)
        firsts = [(heap[0][2], owner) for owner, heap in self._aged.items()]
        self._turns = [(self._turn(owner, lane), owner) for lane, owner in firsts]
        heapify(self._turns)

    def next(self) -> tuple[Lane, Ready] | None:
        """Take the next item; None if there is no further one."""
        self._go_on()
        lane = self._first(self._all, ages=False)
        if lane is None:
            return None
        of_turn = self._of_turn()
        if self._place(of_turn, ages=True) < self._place(lane, ages=False):
            lane = of_turn
        return lane, self._take(lane)

    def _place(self, lane: Lane, *, ages: bool) -> Place:
        turn = self._owners.turn(lane.owner)
        return -lane.ranks[ages], turn, lane.submitted, lane.lane

    def _add(self, lane: Lane) -> None:
        lane.look(self._order, self._now)
        heappush(self._all, (self._place(lane, ages=False), lane.taken, lane))
        heappush(self._aged[lane.owner], (self._place(lane, ages=True), lane.taken, lane))

    def _first(self, heap: Waiting, *, ages: bool) -> Lane | None:
        """Return the first lane for whose items something is left."""
        while heap:
            place, taken, lane = heap[0]
            if taken == lane.taken and self._left.of(lane.lane, lane.model) > 0:
                now = self._place(lane, ages=ages)
                if now == place:
                    return lane
                heapreplace(heap, (now, taken, lane))
            else:
                heappop(heap)
        return None

    def _of_turn(self) -> Lane:
        """Return the first lane of the owner whose turn it is; there is one if any lane is left."""
        while True:
            turn, owner = self._turns[0]
            lane = self._first(self._aged[owner], ages=True)
            if lane is None:
                heappop(self._turns)
            elif (now := self._turn(owner, lane)) != turn:
                heapreplace(self._turns, (now, owner))
            else:
                return lane

    def _turn(self, owner: str, lane: Lane) -> tuple[Turn, Place]:
        """Return the owner's turn; of those with the same, the one with the first lane is next."""
        return self._owners.turn(owner), self._place(lane, ages=True)

    def _take(self, lane: Lane) -> Ready:
        item = lane.first
        assert item is not None
        self._owners.serve(lane.owner, self._now)
        self._left.take(lane.lane, lane.model)
        lane.begun = self._now
        lane.taken += 1
        self._latest = lane
        return item

    def _go_on(self) -> None:
        """Look for the next item of the lane that was served, only now that it may be wanted."""
        lane, self._latest = self._latest, None
        if lane is not None:
            lane.first = next(lane.following, None)
            if lane.first is not None:
                self._add(lane)
