"""Measures the gateway beside others and prints the table: `make bench`."""

import argparse
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.chart import svg_of
from bench.conduct import Plan, measure
from bench.page import write_page
from bench.peers import PEERS
from bench.programs import default_folder
from bench.report import Report, read, report_of, write
from bench.rows import ROWS, Row
from bench.scale import scale_rows
from bench.table import text_of
from gateway import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(argv)
    try:
        report = read(asked.read) if asked.read is not None else _measured(asked)
        sys.stdout.write(text_of(report))
        _write(report, asked)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return bool(report.found.problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=3, help="how often all is measured (3)")
    add("--seconds", type=float, default=4.0, help="how long each work is (4)")
    add("--only", default="", metavar="ROWS", help="rows of the table, with commas between them")
    add("--peers", default=",".join(PEERS), help="which others (%(default)s)")
    add("--ref", action="append", default=[], metavar="COMMIT", help="an earlier build beside this")
    add("--uncompiled", action="store_true", help="this build with its kernel in Python, too")
    add("--quick", action="store_true", help="one round of a second each, and small scales")
    add("--programs", type=Path, default=default_folder(), help="where others are installed")
    add("--work", type=Path, help="a folder for files of traces, 8 GB with the row `traces`")
    add("--read", type=Path, metavar="FILE", help="show what --json wrote; measure nothing")
    add("--json", type=Path, metavar="FILE", help="write all that was found")
    add("--svg", type=Path, metavar="FILE", help="write a chart")
    add("--write", type=Path, metavar="PAGE", help="put tables into a page, the chart beside it")
    return parser


def _measured(asked: argparse.Namespace) -> Report:
    rows = _rows(asked.only, quick=asked.quick)
    peers = [name for name in asked.peers.split(",") if name]
    _check(peers, list(PEERS), "--peers")
    _allow_many_files()
    with tempfile.TemporaryDirectory(dir=asked.work, prefix="bench-") as work:
        plan = Plan(
            rows=rows,
            peers=peers,
            refs=asked.ref,
            uncompiled=asked.uncompiled,
            rounds=1 if asked.quick else asked.rounds,
            seconds=1.0 if asked.quick else asked.seconds,
            programs=asked.programs,
            work=Path(work),
        )
        return report_of(measure(plan), rows)


def _rows(only: str, *, quick: bool) -> list[Row]:
    rows = [*ROWS, *scale_rows(quick=quick)]
    wanted = [name for name in only.split(",") if name]
    _check(wanted, [row.name for row in rows], "--only")
    return [row for row in rows if row.name in wanted or not wanted]


def _check(wanted: Sequence[str], known: Sequence[str], option: str) -> None:
    for name in wanted:
        if name not in known:
            raise ConfigError(f"{option}: there is no {name}; known are {', '.join(known)}")


def _allow_many_files() -> None:
    """For the process, and those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _write(report: Report, asked: argparse.Namespace) -> None:
    if asked.json is not None:
        write(report, asked.json)
    if asked.svg is not None:
        asked.svg.write_text(svg_of(report), "utf-8")
    if asked.write is not None:
        write_page(report, asked.write)


if __name__ == "__main__":
    sys.exit(main())
