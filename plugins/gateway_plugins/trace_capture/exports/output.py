"""Where rows go, and how many of them were written or left out."""

from collections import Counter
from collections.abc import Iterable
from typing import BinaryIO, Protocol

import msgspec

_encode = msgspec.json.Encoder().encode


class Output(Protocol):
    """A destination of rows."""

    def write(self, row: msgspec.Struct) -> None:
        """Write a row. Raises ValueError if the format cannot hold a value of the row."""

    def close(self) -> None:
        """Write the rest; the output is incomplete before this call."""


class JsonLines:
    """An Output: one JSON object per line."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, row: msgspec.Struct) -> None:
        self._stream.write(_encode(row) + b"\n")

    def close(self) -> None:
        self._stream.flush()


class Tally(msgspec.Struct):
    """Counts of rows written and left out; a row with several reasons counts under each of them.

    Reasons besides those of the records: `damaged` if the file does not yield the row, and
    `does_not_fit` if the format cannot hold it.
    """

    written: int = 0
    left_out: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)

    def leave_out(self, reasons: Iterable[str]) -> None:
        self.left_out += 1
        self.reasons.update(reasons)

    def why(self) -> str:
        return ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
