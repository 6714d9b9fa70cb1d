"""How fast the items of each model start."""

from math import inf

from gateway_plugins.runtime.policy.situation import Situation

LEAST = 60.0
"""Seconds of a turn from which it tells the pace: the first items start at once."""

SLOWEST = 1e-6
"""A smaller pace was never measured."""


class Pace:
    """Items a second, of each model's latest turn that was long enough."""

    def __init__(self, known: dict[str, float]) -> None:
        self.of = {name: pace for name, pace in known.items() if pace > SLOWEST}
        self._turn: tuple[str | None, float] | None = None
        self._queued = 0

    def note(self, here: Situation) -> None:
        """Look at the present turn. Items that are submitted meanwhile make it look slower."""
        turn = (here.present, here.view.since)
        if turn != self._turn:
            self._turn, self._queued = turn, here.here.queued
        started = self._queued - here.here.queued
        if here.present and here.age >= LEAST and here.here.queued and started > 0:
            self.of[here.present] = started / here.age

    def work(self, name: str, items: int) -> float:
        """Seconds until so many items have started; a model that is new counts as the slowest."""
        pace = self.of.get(name, min(self.of.values(), default=inf))
        return items / pace
