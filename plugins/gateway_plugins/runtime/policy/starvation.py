"""Whose batch items have waited so long that their model has to come now."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway_plugins.runtime.policy.situation import Situation

NO_TURNS: Mapping[str, float] = MappingProxyType({})


class Due(NamedTuple):
    """When a model has to be there at the latest; its items count from `since`. `early`: seconds
    before that at which it may come, at least."""

    at: float
    name: str
    since: float
    early: float = 0.0


def starving(here: Situation, left: Mapping[str, float]) -> str | None:
    """The model that has to come now, if its items are to start within `max_wait`.

    Models are taken by the time at which they are due, and the first is the answer as soon as one
    of them would come too late otherwise. `left`: when each had its latest turn.
    """
    due = _due(here, left)
    return due[0].name if any(here.now >= latest for _, latest in _latest(here, due)) else None


def patience(here: Situation) -> float:
    """From 1, for items that were just submitted, to 0, for those whose model has to come now."""
    found = (
        (latest - here.now) / (latest - one.since)
        for one, latest in _latest(here, _due(here, NO_TURNS))
    )
    return min(1.0, max(0.0, min(found, default=1.0)))


def _due(here: Situation, left: Mapping[str, float]) -> list[Due]:
    """The models that items wait for, the first due first."""
    return sorted(_due_of(here, name, left.get(name)) for name in here.queued())


def _due_of(here: Situation, name: str, left: float | None) -> Due:
    """Items that one turn was not enough for may have the next from a third of `max_wait` on, after
    `min_hot` in peace; if items of another model would have to go, `max_wait` after that turn."""
    since, rules = here.queued_since(name), here.rules
    if left is None or left <= since:
        return Due(since + rules.max_wait, name, since)
    if here.view.began_for_batch:
        return Due(left + rules.max_wait, name, left)
    early = rules.max_wait * 2 / 3
    at = max(since + rules.max_wait, left + rules.min_hot + early)
    return Due(at, name, since, early)


def _latest(here: Situation, due: list[Due]) -> Iterator[tuple[Due, float]]:
    """When the switch to the first has to begin for the sake of each.

    Between two turns realtime calls may have theirs, and a load may be turned back before the
    first. At least half of `max_wait` is left in peace.
    """
    rules = here.rules
    back = here.of(here.realtime).load_time + max(rules.cooldown, rules.min_batch)
    needed = 2 * back
    for one in due:
        needed += rules.drain_realtime + here.of(one.name).load_time + rules.min_batch
        yield one, one.at - max(one.early, min(needed, rules.max_wait / 2))
        needed += back
