"""The load that a worker seems to shed because its attempts fail early."""

import math
from time import monotonic

MAX_SECONDS = 60.0
"""Seconds at most over which one failed attempt fades."""

NOTHING = 0.01
"""Attempts below which nothing is left."""


class ShedLoad:
    """Attempts that would be in flight now if they had not failed early, as an average.

    Each counts 1 at first and fades with the time that attempts usually last, so that it weighs as
    much in all as an attempt that lasts that long. `amount` is the sum when the latest was added,
    0 if nothing is left.
    """

    __slots__ = ("_at", "_usual", "amount")

    def __init__(self) -> None:
        self.amount = 0.0
        self._at = 0.0
        self._usual = 1.0

    def add(self, seconds: float, usual: float) -> None:
        """Add an attempt that failed after `seconds`; others last `usual` seconds."""
        lasts = min(usual, MAX_SECONDS)
        if seconds >= lasts:
            return
        left = self.now() if self.amount else 0.0
        self.amount = left + 1.0 - seconds / lasts
        self._at, self._usual = monotonic(), lasts

    def now(self) -> float:
        """Return what is left of it now."""
        left = self.amount * math.exp((self._at - monotonic()) / self._usual)
        if left < NOTHING:
            self.amount = 0.0
        return left
