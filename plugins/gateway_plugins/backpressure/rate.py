"""Rate at which slots come free, as a decaying average."""

import math

WINDOW = 10.0
"""Seconds in which the weight of an event falls to about a third (1/e)."""


class Rate:
    """Events per second, mostly those of the last WINDOW seconds. Times are monotonic seconds."""

    __slots__ = ("_at", "_began", "_count")

    def __init__(self, now: float) -> None:
        self._began = self._at = now
        self._count = 0.0

    def note(self, now: float) -> None:
        """Record one event."""
        self._count = self._faded(now) + 1
        self._at = now

    def value(self, now: float) -> float:
        """Events per second, 0 if there were none; the time before the creation is left out."""
        known = WINDOW * (1 - math.exp((self._began - now) / WINDOW))
        return self._faded(now) / known if known > 0 else 0.0

    def _faded(self, now: float) -> float:
        return self._count * math.exp((self._at - now) / WINDOW)
