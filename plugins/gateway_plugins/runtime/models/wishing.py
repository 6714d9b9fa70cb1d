"""Which models are wanted on the disk."""

from collections.abc import Iterable, Mapping

from gateway_plugins.runtime.policy.view import Demand


def wishes(demands: Mapping[str, Demand], realtime: Iterable[str | None]) -> list[str]:
    """Return the models that calls wait for, then those of runtimes, then those of items."""
    held = sorted((one.held_since or 0.0, name) for name, one in demands.items() if one.held)
    queued = (name for name, one in demands.items() if one.queued)
    found = (*(name for _, name in held), *realtime, *queued)
    return [name for name in dict.fromkeys(found) if name is not None]


def busy(demands: Mapping[str, Demand]) -> set[str]:
    """Return the models that have calls or items."""
    return {
        name
        for name, one in demands.items()
        if one.held or one.queued or one.running or one.in_flight
    }
