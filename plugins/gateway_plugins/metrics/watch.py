"""Times the parts of one response: a call's observer, run in the worker's read callback."""

from time import monotonic

from gateway import Headers, Histogram, is_event_stream

PER_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
"""Seconds. OpenTelemetry's for gen_ai.server.time_per_output_token, and smaller ones."""


class Watch:
    """Times the events of a stream. `first` is the time of its first event, 0 if not a stream.

    `gaps` has the seconds between events; events of one read have a gap of zero. A read that ends
    no event begins no token, so it counts with the next read.
    """

    __slots__ = ("_last", "_stream", "first", "gaps")

    def __init__(self) -> None:
        self.first = 0.0
        self.gaps: Histogram | None = None
        self._last = 0.0
        self._stream = False

    def started(self, status: int, headers: Headers) -> None:
        self._stream = is_event_stream(headers)

    def data(self, chunk: bytes) -> None:
        if not self._stream:
            return
        events = chunk.count(b"\n\n") or chunk.count(b"\r\n\r\n")
        if not events:
            return
        now, gaps = monotonic(), self.gaps
        if gaps is None:
            self.first = now
            gaps = self.gaps = Histogram(PER_TOKEN)
        else:
            gaps.add(now - self._last)
        self._last = now
        if events > 1:
            gaps.counts[0] += events - 1
