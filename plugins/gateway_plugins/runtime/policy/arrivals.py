"""How often the realtime calls of a model come."""

import math

import msgspec

SPAN = 300.0
"""Seconds over which arrivals are averaged: a call counts 1/e of itself after so long."""


class Arrivals(msgspec.Struct):
    """The realtime calls of one model; `latest` is a `time.monotonic()`, None: there were none.

    `calls` have come since the latest look: noting one has to cost next to nothing.
    """

    latest: float | None = None
    calls: int = 0
    _rate: float = 0.0
    _at: float = 0.0

    def note(self, now: float) -> None:
        """A call has come."""
        self.latest = now
        self.calls += 1

    def rate(self, now: float) -> float:
        """Return how many come in a second, of late."""
        faded = self._rate * math.exp((self._at - now) / SPAN)
        self._rate, self._at, self.calls = faded + self.calls / SPAN, now, 0
        return self._rate
