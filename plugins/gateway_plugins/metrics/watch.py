"""Times the parts of one response: a call's observer."""

from gateway import Gaps, Headers, is_event_stream

PER_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
"""Seconds. OpenTelemetry's for gen_ai.server.time_per_output_token, and smaller ones."""


class Watch:
    """Times the events of a stream, and nothing of another response."""

    __slots__ = ("collectors", "gaps")

    def __init__(self) -> None:
        self.gaps = Gaps(PER_TOKEN)
        self.gaps.closed = True
        self.collectors = (self.gaps,)

    def started(self, status: int, headers: Headers) -> None:
        self.gaps.closed = not is_event_stream(headers)
