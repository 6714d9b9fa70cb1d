"""How many items may be in flight: what realtime calls leave of each worker.

A worker has a window for all calls, realtime ones included, which follows AIMD (additive increase,
multiplicative decrease; Chiu and Jain, 1989): an item that ends well widens it by a share of one,
so by about one for each round of items; a worker that answers 429 or 503 halves it, at most once in
HOLD seconds, and so does a call that had to wait in the gateway for a worker. If realtime calls get
their first byte later than they did without items, the window shrinks as well.
"""

import time
from collections.abc import Mapping, Sequence

import msgspec

from gateway import Attempt, Call, Worker, Workers
from gateway_plugins.batch.options import Options

FIRST_WINDOW = 8.0
"""Calls in flight at a worker of which nothing is known yet."""

UNKNOWN_MODEL = 4
"""Items in flight for models that no worker serves: each gets the error of a realtime call."""

HOLD = 1.0
"""Seconds between two decreases of a window: what was sent before the first tells nothing new."""

LONG_WAIT = 0.05
"""Seconds that a call may wait for a worker before that means that workers are full."""

TOLERANCE = 1.1
"""How much later first bytes of realtime calls may come while items run."""

SLACK = 0.005
"""Seconds by which they may come later in any case: what a loaded machine varies by."""

NEW = 1 / 8
"""Weight of a new value in the averages of times."""

REFUSED = frozenset((429, 503))


class Window(msgspec.Struct, eq=False):
    """The window of one worker, and its average times to first bytes of realtime streams."""

    size: float = FIRST_WINDOW
    held_until: float = 0.0
    alone: float | None = None
    beside: float | None = None

    def shrink(self, factor: float, now: float) -> None:
        if now >= self.held_until:
            self.size = max(self.size * factor, 1.0)
            self.held_until = now + HOLD

    def widen(self, in_flight: int, most: int) -> None:
        """Widen it if it is used whole: how many more the worker can take is not known else."""
        if in_flight >= int(self.size) and not self.is_late:
            self.size = min(self.size + 1 / self.size, float(most))

    @property
    def is_late(self) -> bool:
        """Whether items delay the first bytes of realtime streams."""
        if self.alone is None or self.beside is None:
            return False
        return self.beside > self.alone * TOLERANCE + SLACK


class Pace:
    """The windows of all workers. `running` counts the items in flight by model."""

    def __init__(self, workers: Workers, options: Options, processes: int) -> None:
        self._workers = workers
        self._most = max(options.max_concurrent // processes, 1)
        self._least = options.min_concurrent
        self._windows: dict[str, Window] = {}
        self.running: dict[str, int] = {}

    def rooms(self) -> tuple[Mapping[str, int], int, int]:
        """Return the room of each known model, that of each other one, and that of all together."""
        workers = self._workers
        if not workers.mixed:
            every = self._room(workers.fit, sum(self.running.values()))
            return {}, every, every
        names = {name for worker in workers.all for name in worker.models or ()}
        rooms = {
            name: self._room(workers.serving(name).fit, self.running.get(name, 0))
            for name in names | self.running.keys()
            if workers.serving(name).all
        }
        strange = sum(count for name, count in self.running.items() if name not in rooms)
        others = max(UNKNOWN_MODEL - strange, 0)
        return rooms, others, self._room(workers.fit, sum(self.running.values())) + others

    def _room(self, fit: Sequence[Worker], running: int) -> int:
        room = sum(self._left(worker) for worker in fit)
        if room <= 0 and fit:
            return max(self._least - running, 0)
        return room

    def _left(self, worker: Worker) -> int:
        """Return how many more items this worker may have."""
        left = int(self._window(worker).size) - worker.in_flight
        limit = worker.slots.limit
        if limit is not None:
            left = min(left, limit - worker.in_flight)
        return max(left, 0)

    def _window(self, worker: Worker) -> Window:
        window = self._windows.get(worker.id)
        if window is None:
            window = self._windows[worker.id] = Window()
        return window

    def begin(self, model: str) -> None:
        self.running[model] = self.running.get(model, 0) + 1

    def end(self, model: str) -> None:
        left = self.running[model] - 1
        if left:
            self.running[model] = left
        else:
            del self.running[model]

    def attempt_ended(self, call: Call, attempt: Attempt, *, is_item: bool) -> None:
        """Learn from an attempt of an item, or of a realtime call."""
        window, now = self._window(attempt.worker), time.monotonic()
        if attempt.status in REFUSED or (
            attempt is call.attempts[0] and attempt.started - call.started > LONG_WAIT
        ):
            window.shrink(0.5, now)
        elif is_item and attempt.error is None:
            window.widen(attempt.worker.in_flight, self._most)
        if not is_item and attempt.first_byte is not None and call.streams:
            self._learn_time(window, attempt.first_byte - attempt.started, now)

    def _learn_time(self, window: Window, seconds: float, now: float) -> None:
        if self.running:
            window.beside = _average(window.beside, seconds)
            if window.is_late:
                window.shrink(0.9, now)
        else:
            window.alone = _average(window.alone, seconds)
            window.beside = None

    def windows(self) -> Mapping[str, float]:
        """Return the present window of each worker of which something is known, by its id."""
        known = self._windows
        return {one.id: known[one.id].size for one in self._workers.all if one.id in known}


def _average(before: float | None, new: float) -> float:
    return new if before is None else before + NEW * (new - before)
