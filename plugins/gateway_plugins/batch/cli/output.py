"""What the commands print: lines, tables, and how far long work is."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TextIO

MAX_CELL_WIDTH = 40
"""Maximum characters of a cell; longer text is cut."""

LAYOUT_ROWS = 100
"""Rows laid out together."""

Row = Sequence[str]


def say(line: bytes | str) -> None:
    """Write a line to standard output in UTF-8, whatever the terminal's encoding."""
    text = line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace")
    sys.stdout.buffer.write(text + b"\n")


def complain(line: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{line}\n")


def table(heads: Row, rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of a table; control characters are escaped, for the terminal."""
    coming = iter(rows)
    widths = [len(head) for head in heads]
    waiting = [tuple(heads)]
    while waiting:
        waiting += [tuple(map(_cell, row)) for row in islice(coming, LAYOUT_ROWS)]
        for column, cells in enumerate(zip(*waiting, strict=True)):
            widths[column] = max(widths[column], *map(len, cells))
        for row in waiting:
            yield "  ".join(map(str.ljust, row, widths)).rstrip()
        waiting = [tuple(map(_cell, row)) for row in islice(coming, 1)]


def _cell(text: str) -> str:
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text[: MAX_CELL_WIDTH + 1]
    )
    return shown if len(shown) <= MAX_CELL_WIDTH else shown[: MAX_CELL_WIDTH - 3] + "..."


class Progress:
    """How much of long work is done: a bar on a terminal, else a line from time to time.

    Use it as a context manager, which removes the bar. `what` is the plural noun of what is
    counted. Short work shows nothing.
    """

    WIDTH = 30
    BAR_INTERVAL, LINE_INTERVAL = 0.1, 10.0
    """Seconds between two states of the bar, and between two lines."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = max(total, 1)
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._interval = self.BAR_INTERVAL if self._is_terminal else self.LINE_INTERVAL
        self._next = time.monotonic() + self._interval

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._write("\r\x1b[K")

    def show(self, done: int) -> None:
        """Say that `done` of all are done, if it is time to say so."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._interval
        count = f"{done} of {self._total} {self._what}"
        share = min(done / self._total, 1.0)
        bar = "#" * int(share * self.WIDTH)
        shown = f"\r[{bar:{self.WIDTH}}] {share:4.0%}  {count}"
        self._write(shown if self._is_terminal else f"{count}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
