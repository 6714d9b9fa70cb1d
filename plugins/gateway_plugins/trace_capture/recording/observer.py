"""Collects the response of one call while it runs; nothing is parsed or counted here."""

import time

from gateway import Call, Headers, Outcome, Sink


class Capture:
    """The observer of one call: keeps the response's chunks and the time at which each arrived.

    When the call is over, the writer's thread makes the record from the Capture.
    """

    __slots__ = (
        "admin_version",
        "call",
        "chunks",
        "headers",
        "room",
        "sink",
        "status",
        "times",
        "too_large",
    )

    def __init__(self, call: Call, sink: Sink, room: int, admin_version: int | None) -> None:
        self.call = call
        self.sink = sink
        self.room = room
        self.admin_version = admin_version
        self.status = 0
        self.headers: Headers = ()
        self.chunks: list[bytes] = []
        self.times: list[float] = []
        self.too_large = False

    def started(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self.chunks, self.times = [], []

    def data(self, chunk: bytes) -> None:
        self.room -= len(chunk)
        if self.room < 0:
            self.too_large = True
            return
        self.chunks.append(chunk)
        self.times.append(time.monotonic())

    def finished(self, outcome: Outcome) -> None:
        size = len(self.call.body.data or b"") + sum(map(len, self.chunks)) + 2_000
        self.call.store(self.sink, self, size)
