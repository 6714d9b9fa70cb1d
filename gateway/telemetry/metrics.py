"""Metrics of the gateway and its plugins, in the form that a scrape needs."""

from bisect import bisect_left
from collections.abc import Mapping
from operator import add
from typing import Literal

import msgspec


class Histogram:
    """Counts of values under each of several bounds: plain integers, cheap to add to.

    `bounds` ascend; `counts` has one more element, for values above the last bound. A value that
    equals a bound counts under it, as with Prometheus' `le`. `sum` is the sum of all values.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def filled(self) -> bool:
        """Whether anything was added."""
        return any(self.counts)

    def merge(self, other: "Histogram") -> None:
        """Add all of `other`, which has the same bounds."""
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum

    def copy(self) -> "Histogram":
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = self.counts[:], self.sum
        return copied


class Sample(msgspec.Struct, frozen=True):
    """One number, or one histogram, at the moment of a scrape.

    `name` begins with `gateway_`, or with `llm_` if other systems have the same, and contains the
    unit; the name of a counter ends in `_total`. All samples of one name have the same `kind` and
    the same names of `labels`, and a label must have few values. `value` is a Histogram if `kind`
    is "histogram", else a number. `merge` is the operation that combines a gauge's values from
    several processes; values of the other kinds are always added up.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    value: float | Histogram
    help: str
    labels: Mapping[str, str] = {}
    merge: Literal["sum", "max", "min"] = "sum"
