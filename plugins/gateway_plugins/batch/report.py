"""What the plugin counts: for its own metrics, and for those of the system that it replaces."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from threading import Lock

import msgspec

from gateway import Histogram, Outcome, Sample, api_of
from gateway_plugins.batch.queue.holders import LEFT
from gateway_plugins.batch.queue.items import COMPLETED, EXPIRED, QUEUED, Ended, ItemError

DURATIONS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""Bounds of the times of calls, in seconds."""

MAX_SERIES = 1_000
"""Maximum number of combinations of endpoint and status that are kept apart."""

OTHER = "other"

DROPPED = "dropped"
"""Why tokens of an item that was canceled or taken over while a call for it ran are wasted."""

_TYPES = {
    "/v1/chat/completions": "chat_completion",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/responses": "response",
}

_STATUSES = ("completed", "error", "canceled", "expired")
_USUAL = ("completion", "chat_completion")
"""Series of these are there from the start, so that an increase from nothing shows."""


class Tally:
    """Counts since the start of this process; the threads of the loop and of the writer call it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._ended = Counter(dict.fromkeys(product(_STATUSES, _USUAL), 0))
        self._requeued = Counter({LEFT.code: 0})
        self._wasted = Counter({DROPPED: 0})
        self._durations: dict[tuple[str, str], Histogram] = {}

    def settled(self, end: Ended) -> None:
        """Count an item whose end is committed, or that was queued again."""
        code = "" if end.error is None else _code(end.error)
        if end.state == QUEUED:
            self.requeued(code)
        else:
            status = "completed" if end.state == COMPLETED else "error"
            self.ended("expired" if code == EXPIRED else status, end.item.path)
        if end.state != COMPLETED:
            self._waste(code, end)

    def dropped(self, end: Ended) -> None:
        """Count what a call sampled for an item that was not this process's to end any more."""
        self._waste(DROPPED, end)

    def _waste(self, reason: str, end: Ended) -> None:
        if end.usage is not None and end.usage.completion_tokens:
            with self._lock:
                self._wasted[reason] += end.usage.completion_tokens

    def ended(self, status: str, path: str | None) -> None:
        """Count an item that has ended: completed, error, canceled or expired."""
        with self._lock:
            self._ended[status, _TYPES.get(path or "", OTHER)] += 1

    def requeued(self, reason: str, items: int = 1) -> None:
        """Count items that were queued again, after a call for them or without one."""
        with self._lock:
            self._requeued[reason] += items

    def called(self, path: str, outcome: Outcome) -> None:
        """Note how long a call took that was not for an item."""
        key = path, str(outcome.status)
        times = self._durations.get(key) or self._times(key)
        times.add(outcome.duration)

    def _times(self, key: tuple[str, str]) -> Histogram:
        """Return the histogram of a call's endpoint and status; callers can make up any path."""
        api = api_of(key[0])
        key = (None if api is None else api.label(key[0])) or OTHER, key[1]
        if key not in self._durations and len(self._durations) >= MAX_SERIES:
            key = OTHER, OTHER
        return self._durations.setdefault(key, Histogram(DURATIONS))

    def samples(self) -> Iterator[Sample]:
        """Yield each count under both of its names."""
        with self._lock:
            ended, requeued, wasted = dict(self._ended), dict(self._requeued), dict(self._wasted)
        for (status, kind), count in ended.items():
            labels = {"status": status, "type": kind}
            yield from _both(_ENDED, count, labels)
        for reason, count in requeued.items():
            yield from _both(_REQUEUED, count, {"reason": reason})
        for reason, count in wasted.items():
            yield from _both(_WASTED, count, {"reason": reason})
        for (endpoint, status), times in self._durations.items():
            labels = {"endpoint": endpoint, "status": status}
            name, help_ = "llm_request_duration_seconds", "Seconds of calls that are not for items."
            yield Sample(name, "histogram", times.copy(), help_, labels)


class Counted(msgspec.Struct, frozen=True):
    """A counter: its name, the one that the replaced system has for it, and what it counts."""

    name: str
    former: str
    help: str


_ENDED = Counted("gateway_batch_items_total", "llm_jobs_total", "Items that have ended, by how.")
_REQUEUED = Counted(
    "gateway_batch_items_requeued_total",
    "llm_jobs_requeued_total",
    "Items that were queued again, by the reason.",
)
_WASTED = Counted(
    "gateway_batch_wasted_tokens_total",
    "llm_wasted_tokens_total",
    "Tokens that were sampled for items in vain, by the reason.",
)


def _both(counted: Counted, count: int, labels: Mapping[str, str]) -> Iterator[Sample]:
    for name in (counted.name, counted.former):
        yield Sample(name, "counter", count, counted.help, labels)


def _code(error: str) -> str:
    return msgspec.json.decode(error, type=ItemError).code
