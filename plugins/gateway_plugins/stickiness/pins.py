"""Worker that each session is pinned to: a bounded memory, one dict entry per session."""

from collections.abc import Callable
from time import monotonic


class Pins:
    """Remembers at most `most` pins, and at least the most recently used half of these.

    There are two generations. A used pin moves into the young one; when that has half of `most`
    pins, or is `ttl` seconds old, it becomes the old one, and the previous old one is forgotten. An
    unused pin is thus forgotten after `ttl` to twice `ttl`. Unlike in an LRU list, a use relinks
    nothing (the scheme is that of Dominic Tarr's hashlru).
    """

    def __init__(self, most: int, ttl: float, clock: Callable[[], float] = monotonic) -> None:
        self.limit(most, ttl)
        self._clock = clock
        self._young: dict[int, str] = {}
        self._old: dict[int, str] = {}
        self._turned = clock()

    def limit(self, most: int, ttl: float) -> None:
        """Replace the bounds, from the next use on."""
        self._half = max(1, most // 2)
        self._ttl = ttl

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def look(self, point: int) -> str | None:
        """Return the worker's id, None if unknown; this does not count as a use of the pin."""
        return self._young.get(point) or self._old.get(point)

    def use(self, point: int) -> str | None:
        """Return the worker's id, None if unknown, and renew the pin."""
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
        if late >= 2 * self._ttl:  # no pin was used since the turn was due
            self._old = {}

    def _turn(self) -> None:
        self._old, self._young = self._young, {}
        self._turned = self._clock()
