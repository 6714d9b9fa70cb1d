"""Exchanges samples between processes, so that a scrape of any process reports all of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from gateway import Histogram
from gateway_plugins.metrics.families import Families, Family, Values


class Counted(msgspec.Struct, array_like=True):
    """A Histogram, in the form that is sent."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float


class Sent(msgspec.Struct, array_like=True):
    """A Family, in the form that is sent."""

    name: str
    kind: str
    merge: str
    help: str
    labels: tuple[str, ...]
    series: list[tuple[Values, float | Counted]]


MERGES: Mapping[str, Callable[[float, float], float]] = {
    "sum": lambda a, b: a + b,
    "max": max,
    "min": min,
}


def written(families: Families) -> bytes:
    return msgspec.msgpack.encode([_sent(family) for family in families])


def merge(families: Families, written_ones: Iterable[bytes]) -> None:
    """Add to `families` what other processes have `written`.

    A family whose kind or labels differ here is left out: for a moment, during a reload, not all
    processes have the same plugins. Raises msgspec.MsgspecError.
    """
    for content in written_ones:
        for sent in msgspec.msgpack.decode(content, type=list[Sent]):
            family = families.having(
                Family(sent.name, sent.kind, sent.merge, sent.help, sent.labels)
            )
            if (family.kind, family.labels) == (sent.kind, sent.labels):
                _absorb(family, sent)


def _sent(family: Family) -> Sent:
    series = [(values, _number(value)) for values, value in family.series.items()]
    return Sent(family.name, family.kind, family.merge, family.help, family.labels, series)


def _number(value: float | Histogram) -> float | Counted:
    if isinstance(value, Histogram):
        return Counted(value.bounds, value.counts, value.sum)
    return value


def _absorb(family: Family, sent: Sent) -> None:
    for values, value in _received(sent):
        there = family.series.get(values)
        if there is None:
            family.series[values] = value
        elif isinstance(there, Histogram) and isinstance(value, Histogram):
            if there.bounds == value.bounds:
                there.merge(value)
        elif not isinstance(there, Histogram) and not isinstance(value, Histogram):
            family.series[values] = MERGES[family.merge](there, value)


def _received(sent: Sent) -> Iterator[tuple[Values, float | Histogram]]:
    for values, value in sent.series:
        if isinstance(value, Counted):
            histogram = Histogram(value.bounds)
            histogram.counts, histogram.sum = value.counts, value.sum
            yield values, histogram
        else:
            yield values, value
