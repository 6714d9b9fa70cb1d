"""Collectors: they take in each read of a response for an observer.

An observer that only gathers chunks or times events has `collectors` in place of the method `data`.
The native kernel fills collectors without a call of Python; the Python code calls each collector's
`add`. A collector that is `closed` takes nothing in.
"""

import time
from typing import Protocol

from gateway.telemetry.metrics import Histogram


class Collector(Protocol):
    """Takes in each chunk of a response."""

    closed: bool

    def add(self, chunk: bytes) -> None: ...


class Gatherer(Collector, Protocol):
    """A collector that keeps `chunks`, and the `times` at which they arrived unless that is None.

    The kernel appends to both and lowers `room` by the size of each chunk. A chunk for which there
    is no room is left to `add`.
    """

    chunks: list[bytes]
    room: int

    @property
    def times(self) -> list[float] | None: ...


class Gathered:
    """The chunks of a response and the time at which each arrived, of up to `room` bytes.

    `closed`: there was no room for a chunk, so those that follow are not kept either.
    """

    __slots__ = ("chunks", "closed", "room", "times")

    def __init__(self, room: int) -> None:
        self.room = room
        self.closed = False
        self.chunks: list[bytes] = []
        self.times: list[float] = []

    def clear(self) -> None:
        """Begin anew with another response, in the room that is left."""
        self.chunks, self.times = [], []

    def add(self, chunk: bytes) -> None:
        if self.closed:
            return
        self.room -= len(chunk)
        if self.room < 0:
            self.closed = True
            return
        self.chunks.append(chunk)
        self.times.append(time.monotonic())


class Gaps:
    """The seconds between the events of a stream, as a histogram with `bounds`.

    `first` and `last` are the times of the first event and of the latest, 0 before any. Events of
    one read have a gap of zero. A read that ends no event is not timed.
    """

    __slots__ = ("closed", "first", "histogram", "last")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.histogram = Histogram(bounds)
        self.first = self.last = 0.0
        self.closed = False

    def add(self, chunk: bytes) -> None:
        if self.closed:
            return
        events = chunk.count(b"\n\n") or chunk.count(b"\r\n\r\n")
        if not events:
            return
        now = time.monotonic()
        if self.first:
            self.histogram.add(now - self.last)
        else:
            self.first = now
        self.last = now
        self.histogram.counts[0] += events - 1
