"""How many calls one worker takes before realtime calls feel it.

The window follows AIMD (additive increase, multiplicative decrease; Chiu and Jain, 1989) with the
slow start of TCP: it begins small and doubles with each round of items until the worker shows that
it has enough. From then on that is the `ceiling`, and it is tried after a while whether the worker
takes more, one call at a time. The while doubles with each try in vain, as realtime calls pay for
those. A worker has enough if it answers 429 or 503, or if the first bytes of realtime streams come
later than they did without items.
"""

import math

import msgspec

FIRST_WINDOW = 8.0
"""Calls in flight at a worker of which nothing is known yet."""

HOLD = 1.0
"""Seconds between two decreases: what was sent before the first tells nothing new."""

FIRST_REST, LAST_REST = 10.0, 600.0
"""Seconds for which a ceiling stands, after the first decrease and at most."""

TOLERANCE = 0.1
"""How much later first bytes may come while items run, as a share of their time without."""

SLACK = 0.003
"""Seconds by which they may come later in any case."""

NEW = 1 / 8
"""Weight of a new value in the averages."""


class Average(msgspec.Struct):
    """A moving average of times, and their mean deviation from it, in seconds."""

    mean: float
    deviation: float

    def add(self, value: float) -> None:
        self.deviation += NEW * (abs(value - self.mean) - self.deviation)
        self.mean += NEW * (value - self.mean)


class Window(msgspec.Struct, eq=False):
    """The window of one worker. Times of `now` are `time.monotonic()`.

    `alone` and `beside` are the times to the first bytes of realtime streams without items, and of
    late beside them.
    """

    size: float = FIRST_WINDOW
    ceiling: float = math.inf
    ceiling_until: float = 0.0
    held_until: float = 0.0
    rest: float = FIRST_REST
    alone: Average | None = None
    beside: float | None = None

    def shrink(self, factor: float, now: float) -> None:
        """The worker has enough."""
        if now < self.held_until:
            return
        self.size = self.ceiling = max(self.size * factor, 1.0)
        if self.ceiling_until:
            in_vain = now < self.ceiling_until + self.rest
            self.rest = min(self.rest * 2, LAST_REST) if in_vain else FIRST_REST
        self.ceiling_until = now + self.rest
        self.held_until = now + HOLD

    def widen(self, most: float, now: float) -> None:
        """An item went well while the window was used whole."""
        if self.size < self.ceiling:
            self.size = min(self.size + 1, self.ceiling, most)
        elif now >= self.ceiling_until:
            self.size = self.ceiling = min(self.size + 1 / self.size, most)

    def note_alone(self, seconds: float) -> None:
        """Learn the time of a first byte without items."""
        self.beside = None
        if self.alone is None:
            self.alone = Average(seconds, seconds / 2)
        else:
            self.alone.add(seconds)

    def note_beside(self, seconds: float, now: float) -> None:
        """Learn the time of a first byte beside items, and shrink if such times are late.

        One that is late by itself says little, so that it takes the average of several, and what
        they deviate from each other without items is no lateness.
        """
        alone = self.alone
        if alone is None:
            return
        before = alone.mean if self.beside is None else self.beside
        self.beside = before + NEW * (seconds - before)
        if self.beside > alone.mean * (1 + TOLERANCE) + alone.deviation + SLACK:
            self.shrink(0.7, now)
            self.beside = None
