"""How long workers take: the first token and the gaps between tokens, over the last hour."""

import time
from collections import deque
from collections.abc import Iterable, Mapping
from time import monotonic

import msgspec

from gateway import Attempt, Call, Gaps, Headers, Histogram, Outcome, StateKey, is_event_stream

WATCH: StateKey["Watch"] = StateKey("dashboard.watch")

BOUNDS = tuple(0.001 * 1.15**step for step in range(83))
"""Bounds in seconds from 1 ms to 95 s: a percentile is true to 7 %."""

MINUTES = 60
"""Minutes that are kept."""

MAX_WORKERS = 1_000
"""Workers whose times are kept."""


class Watch:
    """Times the events of a stream, and nothing of another response."""

    __slots__ = ("collectors", "gaps")

    def __init__(self) -> None:
        self.gaps = Gaps(BOUNDS)
        self.gaps.closed = True
        self.collectors = (self.gaps,)

    def started(self, status: int, headers: Headers) -> None:
        self.gaps.closed = not is_event_stream(headers)


class Minute:
    """What came of one worker in one minute since the epoch."""

    __slots__ = ("itl", "number", "ttft")

    def __init__(self, number: int) -> None:
        self.number = number
        self.ttft = Histogram(BOUNDS)
        self.itl = Histogram(BOUNDS)


class Counted(msgspec.Struct, array_like=True):
    """The times of one worker in one process: counts for each of BOUNDS and above the last."""

    ttft: list[int]
    itl: list[int]
    in_flight: int = 0


class Percentiles(msgspec.Struct, frozen=True):
    """Seconds; None if nothing came. `calls` had a first token."""

    calls: int = 0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    itl_p50: float | None = None
    itl_p95: float | None = None


class Times:
    """The times of each worker, by its id.

    `requested`, `succeeded` and `failed` are the Unix times of the latest attempts that began,
    that went well and that failed, None if there was none; `realtime` that of the latest realtime
    call that ended.
    """

    def __init__(self) -> None:
        self._minutes: dict[str, deque[Minute]] = {}
        self.requested: float | None = None
        self.succeeded: float | None = None
        self.failed: float | None = None
        self.realtime: float | None = None

    def attempted(self, call: Call, attempt: Attempt) -> None:
        """Note an attempt that has ended."""
        now = time.time()
        self.requested = now - (monotonic() - attempt.started)
        if attempt.error is not None:
            self.failed = now
        elif attempt.status is not None and attempt.status < 400:
            self.succeeded = now

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Note a call that has ended."""
        if call.source == "realtime" and not call.internal:
            self.realtime = time.time()
        attempts, watch = call.attempts, call.state.get(WATCH)
        if not attempts or outcome.ttft is None or outcome.result == "error":
            return
        minute = self._minute(attempts[-1].worker.id, int(time.time() // 60))
        minute.ttft.add(outcome.ttft)
        if watch is not None and watch.gaps.histogram.filled:
            minute.itl.merge(watch.gaps.histogram)

    def _minute(self, worker_id: str, number: int) -> Minute:
        kept = self._minutes.get(worker_id)
        if kept is None:
            if len(self._minutes) >= MAX_WORKERS:
                self._minutes.pop(next(iter(self._minutes)))
            kept = self._minutes[worker_id] = deque(maxlen=MINUTES)
        if not kept or kept[-1].number != number:
            kept.append(Minute(number))
        return kept[-1]

    def of(self, worker_id: str, in_flight: int) -> Counted:
        """Return what this process has seen of a worker in the last hour."""
        first = int(time.time() // 60) - MINUTES
        ttft, itl = Histogram(BOUNDS), Histogram(BOUNDS)
        for minute in self._minutes.get(worker_id, ()):
            if minute.number > first:
                ttft.merge(minute.ttft)
                itl.merge(minute.itl)
        return Counted(ttft.counts, itl.counts, in_flight)


def merged(several: Iterable[Mapping[str, Counted]]) -> dict[str, Counted]:
    """Add up what all processes have seen, by worker."""
    found: dict[str, Counted] = {}
    for one in several:
        for name, counted in one.items():
            there = found.get(name)
            found[name] = counted if there is None else _sum(there, counted)
    return found


def _sum(one: Counted, other: Counted) -> Counted:
    return Counted(
        [a + b for a, b in zip(one.ttft, other.ttft, strict=True)],
        [a + b for a, b in zip(one.itl, other.itl, strict=True)],
        one.in_flight + other.in_flight,
    )


def percentiles(counted: Counted) -> Percentiles:
    """Return the percentiles of a worker's times."""
    return Percentiles(
        calls=sum(counted.ttft),
        ttft_p50=quantile(counted.ttft, 0.5),
        ttft_p95=quantile(counted.ttft, 0.95),
        itl_p50=quantile(counted.itl, 0.5),
        itl_p95=quantile(counted.itl, 0.95),
    )


def quantile(counts: list[int], share: float) -> float | None:
    """Return the value under which `share` of the counted values lie, None if there is none.

    It is the middle of the values of one bound; 0 for values below the first bound.
    """
    rank, seen = share * sum(counts), 0
    for place, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            lower = BOUNDS[place - 1] if place else 0.0
            upper = BOUNDS[min(place, len(BOUNDS) - 1)]
            return (lower + upper) / 2 if place else 0.0
    return None
