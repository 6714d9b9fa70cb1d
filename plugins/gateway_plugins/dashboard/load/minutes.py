"""Counts of the last hours in one process, a row for each minute."""

import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from gateway import Outcome

KEPT = 180
"""Minutes that are kept."""


class Minute(msgspec.Struct, array_like=True):
    """One minute; `number` counts from the epoch.

    Calls ended as `successes`, `errors` or `aborts`. `in_flight` is the most that were seen at a
    time; `queued` and `running` are items of the queue, as they were seen last, None: not looked.
    """

    number: int
    successes: int = 0
    errors: int = 0
    aborts: int = 0
    in_flight: int = 0
    queued: int | None = None
    running: int | None = None


class Minutes:
    """The latest minutes in which something was counted or seen. `clock` returns Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: deque[Minute] = deque(maxlen=KEPT)

    def ended(self, outcome: Outcome) -> None:
        """Count a call that has ended."""
        minute = self._now()
        if outcome.result == "success":
            minute.successes += 1
        elif outcome.result == "error":
            minute.errors += 1
        else:
            minute.aborts += 1

    def saw(self, in_flight: int) -> None:
        """Note how many calls are in flight."""
        minute = self._now()
        minute.in_flight = max(minute.in_flight, in_flight)

    def saw_queue(self, queued: int, running: int) -> None:
        """Note how long the queue is."""
        minute = self._now()
        minute.queued, minute.running = queued, running

    def latest(self) -> Sequence[Minute]:
        """Return the minutes of the last KEPT ones, the oldest first."""
        first = int(self._clock() // 60) - KEPT
        return [one for one in self._kept if one.number > first]

    def _now(self) -> Minute:
        number = int(self._clock() // 60)
        if not self._kept or self._kept[-1].number != number:
            self._kept.append(Minute(number))
        return self._kept[-1]
