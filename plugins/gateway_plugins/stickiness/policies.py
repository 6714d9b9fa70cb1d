"""Policies that choose one of the workers that can take a call."""

import math
import random
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol

import msgspec

from gateway import Worker
from gateway_plugins.stickiness.pins import Pins
from gateway_plugins.stickiness.views import View


class Preview(msgspec.Struct, frozen=True):
    """Choice that a policy would make now: `chosen`, of the workers in the order `asked`.

    `why` is the reason. `bound` is the number of attempts in flight, for a weight of 1, from which
    on a worker is skipped.
    """

    why: str
    asked: Sequence[Worker]
    chosen: Worker | None = None
    bound: float | None = None


class Policy(Protocol):
    """A way to choose a worker. `keyed`: whether it needs the key of a call.

    `remembers`: a choice changes later ones, even that of the only worker.
    """

    keyed: bool
    remembers: bool

    def pick(self, view: View, point: int | None, workers: Sequence[Worker]) -> Worker | None:
        """Return one of `workers` (not empty); None leaves the choice to the core: least loaded."""

    def preview(self, view: View, point: int) -> Preview:
        """Return what `pick` would do with all fit workers; this changes nothing."""


class ConsistentHash:
    """The key's worker on the ring; while that has more than its share, the next one.

    A worker is skipped from `spill_above` attempts in flight on, or from `load_factor` times what
    it would have if all were spread evenly, whichever is more; both numbers are for an average
    weight, and in proportion for others. This is "Consistent Hashing with Bounded Loads" (Mirrokni,
    Thorup, Zadimoghaddam 2016), with a floor below which no cache is given up for a better balance.
    """

    keyed = True
    remembers = False

    def __init__(self, load_factor: float | None, spill_above: int) -> None:
        self._load_factor = load_factor
        self._spill_above = spill_above

    def pick(self, view: View, point: int | None, workers: Sequence[Worker]) -> Worker | None:
        if point is None:
            return None
        worker = view.all[view.ring.first(point)]
        # `workers` are nearly always all that are fit, and the load is below the floor; neither the
        # members nor the bound is then made.
        if worker.fit if workers is view.fit else worker in workers:
            busy = worker.slots.used / worker.weight
            if busy < self._spill_above / view.mean_weight or busy < self._bound(view):
                return worker
        members = frozenset(workers)
        able = [worker for place in view.ring.walk(point) if (worker := view.all[place]) in members]
        return _first_below(self._bound(view), able)

    def preview(self, view: View, point: int) -> Preview:
        asked = [view.all[place] for place in view.ring.walk(point)]
        bound = self._bound(view)
        chosen = _first_below(bound, [worker for worker in asked if worker.fit])
        why = "the first on the ring, from the key on, that is fit and below its bound"
        return Preview(why, asked, chosen, None if self._load_factor is None else bound)

    def _bound(self, view: View) -> float:
        """Attempts in flight, for a weight of 1, from which on a worker is skipped."""
        if self._load_factor is None:
            return math.inf
        even = (view.in_flight() + 1) / view.weight if view.fit else 0.0
        return max(self._floor(view), self._load_factor * even)

    def _floor(self, view: View) -> float:
        return self._spill_above / view.mean_weight


def _first_below(bound: float, able: Sequence[Worker]) -> Worker | None:
    """Return the first worker below the bound, the first of all if none is."""
    below = (worker for worker in able if worker.in_flight < bound * worker.weight)
    return next(below, able[0] if able else None)


class LeastLoaded:
    """The worker that the session had last; for a new session, the least loaded one."""

    keyed = True
    remembers = True

    def __init__(self, pins: Pins) -> None:
        self.pins = pins
        self._turn = 0

    def pick(self, view: View, point: int | None, workers: Sequence[Worker]) -> Worker | None:
        if point is None:
            return None
        pinned = view.by_id.get(self.pins.use(point) or "")
        if pinned is not None and pinned in view.members(workers):
            return pinned
        self._turn += 1
        start = self._turn % len(workers)
        worker = min((*workers[start:], *workers[:start]), key=attrgetter("load"))
        self.pins.put(point, worker.id)
        return worker

    def preview(self, view: View, point: int) -> Preview:
        pinned = view.by_id.get(self.pins.look(point) or "")
        asked = sorted(view.fit, key=attrgetter("load"))
        if pinned is None:
            return Preview("the least loaded: it is pinned to none", asked, next(iter(asked), None))
        asked = [pinned, *(worker for worker in asked if worker is not pinned)]
        if pinned.fit:
            return Preview("the one that it is pinned to", asked, pinned)
        why = "the least loaded: the one that it is pinned to is not fit"
        return Preview(why, asked, next(iter(asked[1:]), None))


class PowerOfTwo:
    """The less loaded of two random workers: nearly as even as comparing all, at a fixed cost.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    """

    keyed = False
    remembers = False

    def pick(self, view: View, point: int | None, workers: Sequence[Worker]) -> Worker | None:
        one = int(random.random() * len(workers))
        if len(workers) == 1:
            return workers[0]
        other = int(random.random() * (len(workers) - 1))
        other += other >= one
        return min(workers[one], workers[other], key=attrgetter("load"))

    def preview(self, view: View, point: int) -> Preview:
        return Preview("the less loaded of any two", sorted(view.fit, key=attrgetter("load")))


class RoundRobin:
    """All workers in turn, each in proportion to its weight."""

    keyed = False
    remembers = True

    def pick(self, view: View, point: int | None, workers: Sequence[Worker]) -> Worker | None:
        return view.turns.take(view.members(workers))

    def preview(self, view: View, point: int) -> Preview:
        return Preview("each in turn", view.fit)
