"""Which worker a session is pinned to: a bounded memory that costs one dict entry for each."""

from collections.abc import Callable
from time import monotonic


class Pins:
    """At most `most` are remembered, and at least the half of these that was used last.

    Two generations: what is used moves into the young one; when that is half of all, or `ttl`
    seconds old, it becomes the old one, and what the old one still had is forgotten. So a pin that
    is not used is forgotten after `ttl` to twice that. A use relinks nothing, as that of an LRU
    list would (the scheme is that of Dominic Tarr's hashlru).
    """

    def __init__(self, most: int, ttl: float, clock: Callable[[], float] = monotonic) -> None:
        self.limit(most, ttl)
        self._clock = clock
        self._young: dict[int, str] = {}
        self._old: dict[int, str] = {}
        self._turned = clock()

    def limit(self, most: int, ttl: float) -> None:
        """Other bounds, from the next use on."""
        self._half = max(1, most // 2)
        self._ttl = ttl

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def look(self, point: int) -> str | None:
        """The worker's id, if it is remembered; this is no use of the pin."""
        return self._young.get(point) or self._old.get(point)

    def use(self, point: int) -> str | None:
        """The worker's id, which is remembered anew."""
        self._turn_when_due()
        worker_id = self._young.get(point)
        if worker_id is None and self._old:
            worker_id = self._old.get(point)
            if worker_id is not None:
                self.put(point, worker_id)
        return worker_id

    def put(self, point: int, worker_id: str) -> None:
        self._old.pop(point, None)
        self._young[point] = worker_id
        if len(self._young) >= self._half:
            self._turn()

    def _turn_when_due(self) -> None:
        late = self._clock() - self._turned
        if late >= self._ttl:
            self._turn()
        if late >= 2 * self._ttl:  # nothing was used since the young generation became due
            self._old = {}

    def _turn(self) -> None:
        self._old, self._young = self._young, {}
        self._turned = self._clock()
