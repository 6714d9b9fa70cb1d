"""The rows of scale: what a call costs with more and more of something."""

from collections.abc import Callable, Iterator

from bench.filling import filled
from bench.found import Found
from bench.rows import PLAIN, Line, Row
from bench.stack import gateway
from bench.systems import System

FLAT = 1.2
"""What the dearest may cost of the cheapest."""

TURNS = 10
"""Traces of each session in a file where the number of traces is what is looked at."""


def scale_rows(*, quick: bool) -> tuple[Row, ...]:
    """`quick` leaves out what takes long to prepare."""
    traces = (1_000, 10_000) if quick else (10_000, 1_000_000, 10_000_000)
    most = 2 if quick else 3
    return (
        _row("sessions", (100, 10_000, 1_000_000)[:most], _with_sessions),
        _row("keys", (10, 1_000, 100_000)[:most], _with_keys),
        _row("traces", traces, _with_traces),
        _row("workers", (1, 16, 256)[:most], _with_workers),
    )


def _row(what: str, counts: tuple[int, ...], make: Callable[[str, int], System]) -> Row:
    systems = tuple(make(f"gateway, {count:,} {what}", count) for count in counts)

    def lines(found: Found) -> Iterator[Line]:
        costs = [found.median(one.name, PLAIN.name, "per_call") for one in systems]
        known = [cost for cost in costs if cost is not None]
        yield Line(
            what=f"a plain call with {counts[0]:,} to {counts[-1]:,} {what}",
            figure=max(known, default=None),
            unit="µs",
            beside="the cheapest",
            other=min(known, default=None),
            most=FLAT,
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
