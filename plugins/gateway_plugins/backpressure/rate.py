"""How fast slots come free, as an average that forgets."""

import math

WINDOW = 10.0
"""Seconds in which what happened comes to count for a third."""


class Rate:
    """Events a second, those of the last WINDOW seconds counting most. Times are monotonic."""

    __slots__ = ("_at", "_began", "_count")

    def __init__(self, now: float) -> None:
        self._began = self._at = now
        self._count = 0.0

    def note(self, now: float) -> None:
        """One more."""
        self._count = self._faded(now) + 1
        self._at = now

    def value(self, now: float) -> float:
        """0 where there was none; the time before the first look counts for nothing."""
        known = WINDOW * (1 - math.exp((self._began - now) / WINDOW))
        return self._faded(now) / known if known > 0 else 0.0

    def _faded(self, now: float) -> float:
        return self._count * math.exp((self._at - now) / WINDOW)
