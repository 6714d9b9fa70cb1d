"""The thread that makes spans of finished calls and sends them: bounded, and in no call's way."""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic, sleep
from typing import NamedTuple

from gateway_plugins.otel.exporting.sender import Sender, Sent
from gateway_plugins.otel.record import FinishedCall
from gateway_plugins.otel.spans.encoding import field

log = logging.getLogger("gateway.otel")

BATCH = 512
"""Maximum spans of a request, nearly: the calls that fill it are not divided."""

TURN = 32
"""Spans that are made before the event loop may go on, in about 0.3 ms. After each call it would
cost more: the threads would only change places."""

INTERVAL = 1.0
"""Seconds that spans wait for others, at most."""

MAX_TRIES = 5
"""How often a request is sent; those behind it wait meanwhile."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before the next request, by the failures in a row, if the collector does not say."""

MAX_PAUSE = 60.0
"""Maximum seconds that a collector may ask for."""

SPAN = b"\x12"
"""Tag of a span in ScopeSpans."""

Convert = Callable[[FinishedCall], list[bytes]]
"""Makes the spans of a call: messages of the type Span."""


class Frame(NamedTuple):
    """What all requests have beside spans: a field of ResourceSpans, and one of ScopeSpans."""

    resource: bytes
    scope: bytes


class Exporter:
    """Takes finished calls in the event loop, and sends their spans from a thread.

    At most `most` calls wait; further ones are dropped, and counted: `dropped` has the spans by
    reason, `sent` counts those that the collector has. `away`: the latest request failed.
    """

    def __init__(
        self,
        sender: Sender,
        convert: Convert,
        frame: Frame,
        *,
        where: str,
        most: int,
        timeout: float,
    ) -> None:
        self.sent = 0
        self.dropped: Counter[str] = Counter()
        self.away = False
        self._sender = sender
        self._convert = convert
        self._frame = frame
        self._where = where
        self._most = most
        self._timeout = timeout
        self._waiting: deque[FinishedCall] = deque()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._ends = 0.0
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="otel-exporter", daemon=True)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        self._thread.start()

    def put(self, call: FinishedCall) -> None:
        """Take a call; called in the event loop."""
        waiting = len(self._waiting)
        if waiting >= self._most:
            self.dropped["queue_full"] += 1 + len(call.attempts)
            return
        self._waiting.append(call)
        if waiting + 1 == BATCH // 2:  # most calls have one attempt
            self._wake.set()

    def end(self, seconds: float) -> None:
        """Send what waits, within about `seconds`, and end the thread. It blocks."""
        self._ends = monotonic() + seconds
        self._ending.set()
        self._wake.set()
        self._thread.join(seconds + 1.0)
        self._drop_rest()

    def _drop_rest(self) -> None:
        while self._waiting:
            self.dropped["shutdown"] += 1 + len(self._waiting.popleft().attempts)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wake.wait(INTERVAL)
            self._wake.clear()
            self._send_all()
        self._send_all()
        self._sender.close()

    def _send_all(self) -> None:
        while self._waiting and not self._late():
            spans = self._take()
            if spans:
                self._deliver(spans)

    def _late(self) -> bool:
        return self._ending.is_set() and monotonic() >= self._ends

    def _take(self) -> list[bytes]:
        """Make the spans of some calls, and let the event loop go on between them."""
        spans: list[bytes] = []
        given = 0
        while self._waiting and len(spans) < BATCH:
            call = self._waiting.popleft()
            try:
                spans += self._convert(call)
            except Exception:
                self.dropped["failed"] += 1 + len(call.attempts)
                log.exception("the spans of a call cannot be made", extra={"call_id": call.call_id})
            if len(spans) - given >= TURN:
                sleep(0)
                given = len(spans)
        return spans

    def _deliver(self, spans: list[bytes]) -> None:
        """Send spans until the collector has them or does not want them, or they are given up."""
        data = self._encoded(spans)
        for tried in range(1, MAX_TRIES + 1):
            result = self._sender.send(data, self._time_left())
            if result.state == "taken":
                self._note_taken(result, len(spans))
                return
            self._note_failure(result)
            if result.state == "refused":
                self.dropped["refused"] += len(spans)
                return
            if self._ending.is_set():
                break
            if tried < MAX_TRIES:
                self._ending.wait(self._pause(result))
        self.dropped["unreachable"] += len(spans)

    def _encoded(self, spans: list[bytes]) -> bytes:
        """Return an ExportTraceServiceRequest with one ResourceSpans, and in it one ScopeSpans."""
        resource, scope = self._frame
        scoped = b"".join([scope, *[field(SPAN, span) for span in spans]])
        return field(b"\x0a", resource + field(b"\x12", scoped))

    def _time_left(self) -> float:
        if not self._ending.is_set():
            return self._timeout
        return max(0.1, min(self._timeout, self._ends - monotonic()))

    def _pause(self, result: Sent) -> float:
        if result.retry_after is not None:
            return min(result.retry_after, MAX_PAUSE)
        return PAUSES[min(self._failures, len(PAUSES)) - 1]

    def _note_taken(self, result: Sent, spans: int) -> None:
        rejected = min(result.rejected, spans)
        self.sent += spans - rejected
        if rejected:
            self.dropped["refused"] += rejected
        if self.away:
            log.warning("%s takes spans again", self._where)
        self.away, self._failures = False, 0

    def _note_failure(self, result: Sent) -> None:
        self._failures += 1
        if not self.away:
            log.warning(
                "%s does not take spans: %s; calls go on, gateway_otel_spans_dropped_total counts"
                " what is lost",
                self._where,
                result.reason,
            )
        self.away = True
