"""What was found, as tables for a terminal and for a page."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from statistics import median
from typing import NamedTuple

from bench.found import Found
from bench.lines import Line
from bench.report import Report
from bench.rows import PACED, PLAIN, STREAM
from bench.stack import NAME as GATEWAY
from bench.systems import named

Cells = list[list[str]]
"""Lines of a table; the first has the heads of its columns."""

NOTHING = "-"

FULL = "full"
"""In place of a figure that no round was of use for."""

MARK = "†"
"""At a median for which some rounds were of no use."""


class Column(NamedTuple):
    """A figure of each system, or several that are parts of one, which are of gateways alone."""

    head: str
    work: str
    figure: str
    more: tuple[str, ...] = ()


COLUMNS = (
    Column("plain: µs/call", PLAIN.name, "per_call"),
    Column("loop + writer", PLAIN.name, "loop_per_call", ("threads_per_call",)),
    Column("calls/s", PLAIN.name, "rate"),
    Column("p50 ms", PLAIN.name, "latency_p50"),
    Column("p99 ms", PLAIN.name, "latency_p99"),
    Column("stream: µs/event", STREAM.name, "per_event"),
    Column("loop + writer", STREAM.name, "loop_per_event", ("threads_per_event",)),
    Column("paced: µs/event", PACED.name, "per_event"),
    Column("loop + writer", PACED.name, "loop_per_event", ("threads_per_event",)),
    Column("first token p50 ms", PACED.name, "ttft_p50"),
    Column("p99 ms", PACED.name, "ttft_p99"),
    Column("gap p99 ms", PACED.name, "gap_p99"),
    Column("MiB after plain", PLAIN.name, "memory"),
)


def text_of(report: Report) -> str:
    """For a terminal."""
    parts = [*map(_aligned, _tables(report)), about(report)]
    return "\n".join([*parts, *remarks(report)])


def markdown_of(report: Report) -> str:
    """For a page."""
    said = "".join(f"\n- {remark}" for remark in remarks(report))
    parts = [about(report), *map(_piped, _tables(report))]
    return "\n".join(parts) + (said + "\n" if said else "")


def _tables(report: Report) -> Iterator[Cells]:
    yield targets(report)
    if len(found := systems(report)) > 1:
        yield found


def about(report: Report) -> str:
    found, machine = report.found, report.found.machine
    versions = "; ".join(f"{name} {version}" for name, version in found.versions.items())
    return (
        f"{found.date}: medians of {found.rounds} rounds, works of {found.seconds:g} s or more;"
        f" {machine.processor}, {machine.processors} processors, Linux {machine.kernel},"
        f" Python {machine.python}. {versions}.{_quiet(found)}\n"
    )


def _quiet(found: Found) -> str:
    """How much of the measured processor went to what is not measured."""
    readings = [reading for one in found.readings for reading in one.rounds]
    shares = (
        ("other programs took", [one.others for one in readings if one.others is not None]),
        ("the machine below took", [one.stolen for one in readings if one.stolen is not None]),
    )
    said = [f"{what} {median(of):.1%} ({max(of):.1%} at most)" for what, of in shares if of]
    return f" Of the measured processor, {', '.join(said)}." if said else ""


def remarks(report: Report) -> Iterator[str]:
    """What somebody who reads the figures has to know."""
    for name, why in report.found.left_out.items():
        yield f"{name} is left out: {' '.join(why.split())[:300]}"
    for readings, number, why in report.found.useless():
        yield f"{MARK} {readings.system}, {readings.work}: round {number} is left out: {why}"
    for problem in report.found.problems:
        yield f"PROBLEM {' '.join(problem.split())[:300]}"


def targets(report: Report) -> Cells:
    """What is to be reached, and what was."""
    builds = [named("outcome", build) for build in report.earlier]
    heads = ["row", "what", "gateway", "rounds", "beside", "", "outcome", *builds, "at most", "met"]
    found = [heads]
    for row, lines in report.table.items():
        for place, line in enumerate(lines):
            earlier = [table[row][place] for table in report.earlier.values()]
            found.append([row, *_cells(line, earlier)])
    return found


def _cells(line: Line, earlier: Sequence[Line]) -> list[str]:
    met = {None: "", True: "yes", False: "NO"}[line.met]
    return [
        line.what,
        number(line.figure, line.unit),
        _spread(line),
        line.beside,
        number(line.other, line.unit) if line.beside else "",
        _shown(line, line.outcome) if line.comparison != "is" else "",
        *("" if one.figure is None else _shown(one, one.outcome) for one in earlier),
        _shown(line, line.most) if line.most is not None else "",
        met,
    ]


def _spread(line: Line) -> str:
    """Over the rounds, if there are several."""
    if line.least == line.greatest:
        return ""
    return f"{number(line.least)} to {number(line.greatest)}"


def _shown(line: Line, outcome: float | None) -> str:
    """An outcome as the line compares."""
    if outcome is None:
        return NOTHING
    if line.comparison == "times":
        return f"{outcome:.{2 if outcome >= 0.1 else 4}f} x"
    shown = number(outcome, line.unit)
    return f"+{shown}" if outcome >= 0 and line.comparison == "more" else shown


def number(value: float | None, unit: str = "") -> str:
    if value is None:
        return NOTHING
    if abs(value) >= 1e6:
        return f"{value:.3g} {unit}".rstrip()
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def systems(report: Report) -> Cells:
    """Each system that was measured, the gateway's at the end."""
    found = report.found
    names = dict.fromkeys(one.system for one in found.readings)
    rows = [
        [name, *(_figure(found, name, column) for column in COLUMNS)]
        for name in sorted(names, key=lambda name: name.startswith("gateway"))
    ]
    filled = [row for row in rows if set(row[1:]) != {NOTHING}]
    return [["system", *(column.head for column in COLUMNS)], *filled]


def _figure(found: Found, system: str, column: Column) -> str:
    figures = (column.figure, *column.more)
    if column.more and not system.startswith(GATEWAY):
        return NOTHING
    values = [found.median(system, column.work, figure) for figure in figures]
    rounds = found.readings_of(system, column.work)
    useless = [reading for reading in rounds if reading.useless]
    if useless and len(useless) == len(rounds):
        return FULL
    known = [number(value) for value in values if value is not None]
    return " + ".join(known) + (MARK if useless else "") if known else NOTHING


def _aligned(cells: Cells) -> str:
    widths = [max(map(len, column)) for column in _columns(cells)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "".join(f"{line}\n" for line in lines)


def _piped(cells: Cells) -> str:
    safe = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [safe[0], ["---"] * len(cells[0]), *safe[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _columns(cells: Cells) -> Iterator[Sequence[str]]:
    return zip_longest(*cells, fillvalue="")
