"""The rows of scale: what a call costs with more and more of something."""

from collections.abc import Callable, Iterator

from bench.filling import filled
from bench.lines import Line, View
from bench.rows import PLAIN, Row
from bench.stack import gateway
from bench.systems import System

FLAT = 1.2
"""What the dearest may cost of the cheapest."""

FLAT_SESSIONS = 1.15

TURNS = 10
"""Traces of each session in a file where the number of traces is what is looked at."""


def scale_rows(*, quick: bool) -> tuple[Row, ...]:
    """`quick` leaves out what takes long to prepare."""
    traces = (1_000, 10_000) if quick else (10_000, 1_000_000, 10_000_000)
    few = 2 if quick else 3
    return (
        _row("sessions", (100, 10_000, 1_000_000)[:few], _with_sessions, FLAT_SESSIONS),
        _row("keys", (10, 1_000, 100_000)[:few], _with_keys),
        _row("traces", traces, _with_traces),
        _row("workers", (1, 16, 256)[:few], _with_workers),
    )


def _row(
    what: str, counts: tuple[int, ...], make: Callable[[str, int], System], most: float = FLAT
) -> Row:
    systems = tuple(make(f"gateway, {count:,} {what}", count) for count in counts)

    def lines(view: View) -> Iterator[Line]:
        costs = [view.median(one, PLAIN, "per_call") for one in systems]
        known = [cost for cost in costs if cost is not None]
        yield Line(
            what=f"a plain call with {counts[0]:,} to {counts[-1]:,} {what}",
            figure=max(known, default=None),
            unit="µs",
            beside="the cheapest",
            other=min(known, default=None),
            most=most,
        )

    return Row(what, systems, (PLAIN,), (), lines)


def _with_sessions(name: str, count: int) -> System:
    return gateway(name, sessions=count, fill=filled(count, count))


def _with_keys(name: str, count: int) -> System:
    return gateway(name, keys=count)


def _with_traces(name: str, count: int) -> System:
    return gateway(name, fill=filled(count, count // TURNS))


def _with_workers(name: str, count: int) -> System:
    return gateway(name, workers=count)
