"""Collects the response of one call while it runs; nothing is parsed or counted here."""

from gateway import Call, Gathered, Headers, Outcome, Sink
from gateway_plugins.trace_capture.recording.carried import Carried


class Capture:
    """The observer of one call: keeps the response's chunks and the time at which each arrived.

    `keeps_bytes`: the record has the response as it came, besides what is parsed of it.
    When the call is over, the writer's thread makes the record from the Capture.
    """

    __slots__ = (
        "admin_version",
        "call",
        "collectors",
        "headers",
        "keeps_bytes",
        "reads",
        "sink",
        "status",
        "tito",
    )

    def __init__(
        self,
        call: Call,
        sink: Sink,
        room: int,
        admin_version: int | None,
        tito: Carried | None = None,
        *,
        keeps_bytes: bool = False,
    ) -> None:
        self.call = call
        self.sink = sink
        self.admin_version = admin_version
        self.tito = tito
        self.keeps_bytes = keeps_bytes
        self.status = 0
        self.headers: Headers = ()
        self.reads = Gathered(room)
        self.collectors = (self.reads,)

    @property
    def too_large(self) -> bool:
        """Whether there was no room for the whole response."""
        return self.reads.closed

    def started(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        if self.reads.chunks:  # of an earlier attempt
            self.reads.clear()

    def finished(self, outcome: Outcome) -> None:
        size = len(self.call.body.data or b"") + sum(map(len, self.reads.chunks)) + 2_000
        self.call.store(self.sink, self, size)
