"""Lines of the table: figures of the gateway next to others, and what comes of both."""

from typing import Literal

import msgspec

from bench.found import Found
from bench.systems import System, named
from bench.works import Work

Comparison = Literal["times", "more", "is"]
"""How an outcome comes from two figures: their ratio, their difference; `is`: it is the first."""

UNITS = {
    "per_call": "µs",
    "per_event": "µs",
    "latency_p99": "ms",
    "ttft_p50": "ms",
    "ttft_p99": "ms",
    "gap_p99": "ms",
    "idle_memory": "MiB",
    "per_stream": "KiB",
    "per_gib": "s",
}


class Line(msgspec.Struct, kw_only=True):
    """One figure of the gateway's, next to that of `beside`; None: it was not measured.

    `outcome` is what comes of both by the comparison, `most` what it is to be at most, and `met` is
    None where there is nothing to reach, or nothing was measured. `least` and `greatest` are of the
    figure over the rounds.
    """

    what: str
    figure: float | None
    unit: str
    beside: str = ""
    other: float | None = None
    comparison: Comparison = "times"
    most: float | None = None
    least: float | None = None
    greatest: float | None = None
    outcome: float | None = None
    met: bool | None = None

    def __post_init__(self) -> None:
        self.outcome = _outcome(self.figure, self.other, self.comparison)
        if self.outcome is not None and self.most is not None:
            self.met = self.outcome <= self.most


def _outcome(figure: float | None, other: float | None, comparison: Comparison) -> float | None:
    if figure is None or comparison == "is":
        return figure
    if other is None or (comparison == "times" and other <= 0):
        return None
    return figure / other if comparison == "times" else figure - other


class View(msgspec.Struct, frozen=True):
    """What was found of one build of the gateway, and of all else; "" is the present build."""

    found: Found
    build: str = ""

    def values(self, system: System, work: Work, figure: str) -> list[float]:
        """In the rounds that are of use."""
        return self.found.values(named(system.name, self.build), work.name, figure)

    def median(self, system: System, work: Work, figure: str) -> float | None:
        return self.found.median(named(system.name, self.build), work.name, figure)

    def line(
        self,
        what: str,
        system: System,
        work: Work,
        figure: str,
        *,
        beside: str = "",
        other: float | None = None,
        comparison: Comparison = "times",
        most: float | None = None,
    ) -> Line:
        """A line of the gateway's figure. Of the system `beside`, it is `other` or the same."""
        values = self.values(system, work, figure)
        if beside and other is None:
            other = self.found.median(beside, work.name, figure)
        return Line(
            what=what,
            figure=self.median(system, work, figure),
            unit=UNITS[figure],
            beside=beside,
            other=other,
            comparison=comparison,
            most=most,
            least=min(values, default=None),
            greatest=max(values, default=None),
        )
