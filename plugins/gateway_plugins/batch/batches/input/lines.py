"""Splits a file into lines, without more than one line in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

BOM = b"\xef\xbb\xbf"
"""A byte order mark in UTF-8, with which some editors begin files."""

CHUNK = 64 * 1024
"""Bytes that are read at a time. Each read lets other threads run."""


class Line(msgspec.Struct, frozen=True):
    """A line that is not blank. `number` is from 1 and counts blank lines, too.

    `text` is without line end; None if it is longer than allowed. `is_ended`: a line end follows.
    """

    number: int
    text: bytes | None
    is_ended: bool = True


class _Partial:
    """What has come of a line; what exceeds the limit is not kept."""

    def __init__(self, most: int) -> None:
        self.number = 1
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._most + len(BOM) + len(b"\r"):
            self._parts.append(part)
        else:
            self._parts.clear()

    def end(self, is_ended: bool) -> Line | None:
        """Return the line, None if it is blank, and begin the next one."""
        text, size, number = b"".join(self._parts), self._size, self.number
        self._parts.clear()
        self._size, self.number = 0, number + 1
        if size > len(text):
            return Line(number, None, is_ended)
        if number == 1:
            text = text.removeprefix(BOM)
        text = text.removesuffix(b"\r")
        if not text.strip(b" \t\r"):
            return None
        return Line(number, text if len(text) <= self._most else None, is_ended)


def split(chunks: Iterable[bytes], most: int) -> Iterator[Line]:
    """Yield the lines of a text that comes in `chunks`, of at most `most` bytes each.

    A line ends with LF or CRLF. A byte order mark at the beginning belongs to no line. Blank lines
    are not yielded.
    """
    partial = _Partial(most)
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            partial.add(chunk[start:end])
            start = end + 1
            line = partial.end(is_ended=True)
            if line is not None:
                yield line
        partial.add(chunk[start:])
    line = partial.end(is_ended=False)
    if line is not None:
        yield line


def lines_of(path: Path, most: int) -> Iterator[Line]:
    """Yield the lines of a file, see `split`. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        yield from split(iter(lambda: file.read(CHUNK), b""), most)


def count(path: Path) -> int:
    """Return how many lines a file has, blank ones included. Raises OSError."""
    ends, last = 0, b"\n"
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            ends += chunk.count(b"\n")
            last = chunk[-1:]
    return ends + (last != b"\n")
