"""What was found, as tables for a terminal and for a page."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from bench.report import Report
from bench.rows import PACED, PLAIN, STREAM, Comparison, Line

Cells = list[list[str]]
"""Lines of a table; the first has the heads of its columns."""

NOTHING = "-"

HEADS = ["row", "what", "gateway", "beside", "", "outcome", "at most", "met"]


class Column(NamedTuple):
    """A figure of each system."""

    head: str
    work: str
    figure: str


COLUMNS = (
    Column("plain: µs/call", PLAIN.name, "per_call"),
    Column("calls/s", PLAIN.name, "rate"),
    Column("p50 ms", PLAIN.name, "latency_p50"),
    Column("p99 ms", PLAIN.name, "latency_p99"),
    Column("stream: µs/event", STREAM.name, "per_event"),
    Column("paced: µs/event", PACED.name, "per_event"),
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
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return (
        f"{found.date}: medians of {found.rounds} rounds, works of {found.seconds:g} s or more;"
        f" {machine.processor}, {machine.processors} processors, Linux {machine.kernel},"
        f" Python {machine.python}. {versions}.\n"
    )


def remarks(report: Report) -> Iterator[str]:
    """What somebody who reads the figures has to know."""
    for name, why in report.found.left_out.items():
        yield f"{name} is left out: {' '.join(why.split())[:300]}"
    for problem in report.found.problems:
        yield f"PROBLEM {' '.join(problem.split())[:300]}"


def targets(report: Report) -> Cells:
    """What is to be reached, and what was."""
    lines = [(row, line) for row, lines in report.table.items() for line in lines]
    return [HEADS, *([row, *_cells(line)] for row, line in lines)]


def _cells(line: Line) -> list[str]:
    met = {None: "", True: "yes", False: "NO"}[line.met]
    return [
        line.what,
        number(line.figure, line.unit),
        line.beside,
        number(line.other, line.unit) if line.beside else "",
        _outcome(line.outcome, line.comparison, line.unit) if line.comparison != "is" else "",
        _outcome(line.most, line.comparison, line.unit) if line.most is not None else "",
        met,
    ]


def _outcome(value: float | None, comparison: Comparison, unit: str) -> str:
    if value is not None and comparison == "times":
        return f"{value:.{2 if value >= 0.1 else 4}f} x"
    shown = number(value, unit)
    return f"+{shown}" if value is not None and value >= 0 and comparison == "more" else shown


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
        [name, *(number(found.median(name, one.work, one.figure)) for one in COLUMNS)]
        for name in sorted(names, key=lambda name: name.startswith("gateway"))
    ]
    filled = [row for row in rows if set(row[1:]) != {NOTHING}]
    return [["system", *(column.head for column in COLUMNS)], *filled]


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
