"""Whose batch items have waited so long that their model has to come now."""

from collections.abc import Iterable, Mapping

from gateway_plugins.runtime.policy.situation import Situation


def starving(here: Situation, left: Mapping[str, float], *, again: bool = False) -> str | None:
    """The model that has to come now, if its items are to start within `max_wait`.

    Models are taken by the time at which their items are due, and the first is the answer as soon
    as one of them would come too late otherwise. A model that had a turn is due `max_wait` after
    its turn, `again`: after the submission of its items even so.
    """
    due = sorted((_due(here, name, left, again), name) for name in here.queued())
    return due[0][1] if any(here.now >= latest for latest in _latest(here, due)) else None


def had_turn(here: Situation, name: str, left: Mapping[str, float]) -> bool:
    """Whether the model was there for its items within `max_wait`."""
    return name in left and here.now < left[name] + here.rules.max_wait


def _due(here: Situation, name: str, left: Mapping[str, float], again: bool) -> float:
    since = here.queued_since(name)
    if not again:
        since = max(since, left.get(name, since))
    return since + here.rules.max_wait


def _latest(here: Situation, due: Iterable[tuple[float, str]]) -> Iterable[float]:
    """When the switch to the first has to begin for the sake of each: between two turns, realtime
    calls may have theirs. Half of `max_wait` at least is left in peace."""
    rules = here.rules
    back = here.of(here.realtime).load_time + max(rules.cooldown, rules.min_batch)
    needed = back
    for time, name in due:
        needed += rules.drain_realtime + here.of(name).load_time
        yield time - min(needed, rules.max_wait / 2)
        needed += rules.min_batch + back
