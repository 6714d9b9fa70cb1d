"""Realtime calls of late: when the latest came, and how many come in a second."""

import math
from time import monotonic

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

    def rate(self, now: float) -> float:
        """Return how many come in a second, of late."""
        faded = self._rate * math.exp((self._at - now) / SPAN)
        self._rate, self._at, self.calls = faded + self.calls / SPAN, now, 0
        return self._rate


class Activity:
    """The arrivals of each model that can be loaded."""

    def __init__(self, models: frozenset[str]) -> None:
        self._arrivals = {model: Arrivals() for model in models}

    def of(self, model: str) -> Arrivals:
        return self._arrivals[model]

    def note(self, model: str | None) -> None:
        """A realtime call for the model was admitted; any other name is no activity."""
        arrivals = self._arrivals.get(model)  # type: ignore[arg-type]  # None is no model
        if arrivals is not None:
            arrivals.latest = monotonic()
            arrivals.calls += 1
