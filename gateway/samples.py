"""What the gateway and its plugins count, in the shape in which a scrape asks for it."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal

import msgspec


class Histogram:
    """How often values fell under each of some bounds: plain integers, cheap to add to.

    `bounds` ascend; `counts` has one more place than they have, for what is above the last. A value
    that equals a bound counts under it, as with Prometheus' `le`. `sum` is that of all values.
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
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def copy(self) -> "Histogram":
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = self.counts[:], self.sum
        return copied


class Sample(msgspec.Struct, frozen=True):
    """One number, or one histogram, at the moment of a scrape.

    `name` begins with `gateway_` and says the unit; that of a counter ends in `_total`. All samples
    of one name have the same `kind` and the same names of `labels`, whose values must be few.
    `value` is a Histogram where the kind is that, else a number. `merge` says how the values of a
    gauge in several processes become one; those of the other kinds are always added up.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    value: float | Histogram
    help: str
    labels: Mapping[str, str] = {}
    merge: Literal["sum", "max", "min"] = "sum"
