"""Rate at which slots come free, as a decaying average."""

import math

WINDOW = 10.0
"""Seconds in which the weight of an event falls to about a third (1/e)."""

STEP = 0.05
"""Seconds within which events count as of the same time, so that each costs little."""


class Rate:
    """Events per second, mostly those of the last WINDOW seconds. Times are monotonic seconds."""

    __slots__ = ("_at", "_began", "_count")

    def __init__(self, now: float) -> None:
        self._began = self._at = now
        self._count = 0.0

    def note(self, now: float) -> None:
        """Record one event."""
        if now - self._at > STEP:
            self._count *= math.exp((self._at - now) / WINDOW)
            self._at = now
        self._count += 1

    def value(self, now: float) -> float:
        """Events per second, 0 if there were none; the time before the creation is left out."""
        known = WINDOW * (1 - math.exp((self._began - now) / WINDOW))
        return self._count * math.exp((self._at - now) / WINDOW) / known if known > 0 else 0.0
