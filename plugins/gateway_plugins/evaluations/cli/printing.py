"""What the commands print: tables, scores, and how far a job is."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway_plugins.evaluations.cli.asking import Record

MAX_CELL_WIDTH = 60
"""Characters of a cell; longer text is cut."""

WIDTH = 30
BAR_INTERVAL, LINE_INTERVAL = 0.2, 10.0
"""Seconds between two states of the bar on a terminal, and between two lines elsewhere."""


def say(line: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{line}\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns."""
    cells = [tuple(heads), *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        say("  ".join(map(str.ljust, row, widths)).rstrip())


def _cell(text: str) -> str:
    shown = "".join(one if one.isprintable() else "?" for one in text)
    return shown if len(shown) <= MAX_CELL_WIDTH else f"{shown[: MAX_CELL_WIDTH - 3]}..."


def show(record: Record) -> None:
    """Print a job with its scores."""
    say(f"{record.job_id}  {record.model}  {record.status}  {record.created_at}")
    for name, status in record.eval_status.items():
        say(f"{name}: {status.status}{_count(status.done, status.total)}")
        scores(status.results or {})
        if status.error:
            say(f"  {status.error.strip()[-1_000:]}")
        if status.file:
            say(f"  {status.file}")
    if record.error:
        say(record.error)


def scores(metrics: Mapping[str, Any]) -> None:
    """Print scores, one a line."""
    width = max(map(len, metrics), default=0)
    for name, value in metrics.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        say(f"  {name:{width}}  {shown}")


def _count(done: int, total: int | None) -> str:
    return "" if total is None else f", {done} of {total}"


class Progress:
    """How far a job is: a bar on a terminal, else a line from time to time, on standard error."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self.interval = BAR_INTERVAL if self._is_terminal else LINE_INTERVAL
        self._next = 0.0
        self._last = ""

    def show(self, record: Record) -> None:
        """Say how far the job is, if it is time to say so."""
        now = time.monotonic()
        if now < self._next and not record.is_over:
            return
        self._next = now + self.interval
        text = _line(record)
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{text}" + "\n" * record.is_over)
        elif text != self._last:
            sys.stderr.write(f"{text}\n")
        self._last = text
        sys.stderr.flush()


def _line(record: Record) -> str:
    found = record.eval_status.values()
    done, total = sum(one.done for one in found), sum(one.total or 0 for one in found)
    share = done / total if total else 0.0
    states = ", ".join(sorted({one.status for one in found}))
    return f"[{'#' * int(share * WIDTH):{WIDTH}}] {done} of {total} requests: {states}"
