"""How a simulated time went, in numbers."""

import math
from collections.abc import Iterable, Sequence

import msgspec

from gateway_plugins.runtime.policy.simulation.box import Box
from gateway_plugins.runtime.policy.simulation.load import BROKEN, Item

LONG = 60.0


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds. Items of a model that cannot be loaded are left out.

    `idle` and `loading` are shares of the time. `long_waits`: realtime calls that waited for longer
    than a minute; `long_unready`: those for which the model was not there for so long. An item's
    wait ends at its first start, and its completion at its end; items that never started have
    waited until the end. `lost`: items that ended as errors.
    """

    switches: int
    idle: float
    loading: float
    p50: float
    p99: float
    longest: float
    long_waits: int
    long_unready: int
    refused: int
    done: int
    lost: int
    left: int
    mean_wait: float
    max_wait: float
    mean_completion: float


def measured(box: Box) -> Measures:
    record, end = box.record, box.work.end
    items = [one for one in box.work.items if one.model != BROKEN]
    waits = sorted(one.until_served for one in record.waits)
    done = [one for one in items if one.ended is not None and not one.lost]
    item_waits = [_wait(one, end) for one in items]
    return Measures(
        switches=record.switches,
        idle=_share(box, "idle"),
        loading=_share(box, "loading"),
        p50=_quantile(waits, 0.5),
        p99=_quantile(waits, 0.99),
        longest=_quantile(waits, 1),
        long_waits=sum(one > LONG for one in waits),
        long_unready=sum(one.until_ready > LONG for one in record.waits),
        refused=record.refused,
        done=len(done),
        lost=sum(one.lost for one in items),
        left=sum(one.ended is None for one in items),
        mean_wait=_mean(item_waits),
        max_wait=max(item_waits, default=0.0),
        mean_completion=_mean((one.ended or end) - one.at for one in done),
    )


def _wait(item: Item, end: float) -> float:
    return (end if item.started is None else item.started) - item.at


def _share(box: Box, state: str) -> float:
    spans = (one for one in box.record.spans if one.state == state)
    return sum(one.end - one.start for one in spans) / box.work.end


def _quantile(values: Sequence[float], share: float) -> float:
    """The nearest rank."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _mean(values: Iterable[float]) -> float:
    known = [*values]
    return sum(known) / len(known) if known else 0.0
