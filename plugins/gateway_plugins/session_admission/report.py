"""What operators and metrics are told of the places and of the line."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import msgspec

from gateway import Sample
from gateway_plugins.session_admission.admission import Admission
from gateway_plugins.session_admission.places import Reason

MAX_LISTED = 100
"""Maximum principals in a report: those with the most waiting calls."""


class Counts(msgspec.Struct):
    """Events since the start. `waited_seconds` is the sum for all calls that waited."""

    waited: int = 0
    waited_seconds: float = 0.0
    refused_full: int = 0
    refused_late: int = 0
    left: int = 0


class HotSessions(msgspec.Struct):
    """The hot sessions of one worker; `limit` None: any number. `idle` ones have no call there."""

    hot: int
    idle: int
    limit: int | None


class AdmissionReport(msgspec.Struct, kw_only=True):
    """The admission at this moment. Times are seconds.

    `waiting_by_principal` is by id; calls without a principal are under "". `left_places` says why
    sessions have left their places since the start.
    """

    workers: dict[str, HotSessions]
    waiting: int
    max_waiting: int
    oldest_wait: float
    waiting_by_principal: dict[str, int]
    left_places: dict[str, int]
    counts: Counts


def report_of(
    rules: Admission, workers: Sequence[str], counts: Counts, max_waiting: int, now: float
) -> AdmissionReport:
    """Return the report on these workers, by their ids, at the monotonic time `now`."""
    idle = Counter(place.worker for place in rules.places if not place.calls)
    principals = Counter(ticket.key.principal for ticket in rules.line)
    places = rules.places
    return AdmissionReport(
        workers={
            one: HotSessions(places.hot(one), idle[one], places.limit(one)) for one in workers
        },
        waiting=len(rules.line),
        max_waiting=max_waiting,
        oldest_wait=max((now - (one.since or now) for one in rules.line), default=0.0),
        waiting_by_principal=dict(principals.most_common(MAX_LISTED)),
        left_places={reason: places.counts[reason] for reason in get_args(Reason)},
        counts=counts,
    )


def samples_of(report: AdmissionReport) -> Iterator[Sample]:
    """Yield the metrics."""
    yield from _of_workers(report.workers)
    counts = report.counts
    help_ = "Calls that wait until their session may be hot."
    yield Sample("gateway_admission_waiting", "gauge", report.waiting, help_)
    help_ = "The longest wait of those."
    yield Sample(
        "gateway_admission_oldest_wait_seconds", "gauge", report.oldest_wait, help_, merge="max"
    )
    for name, value, help_ in (
        ("gateway_admission_waited_total", counts.waited, "Calls that have had to wait."),
        ("gateway_admission_waited_seconds_total", counts.waited_seconds, "Their waits together."),
        ("gateway_admission_left_total", counts.left, "Calls that ended while they waited."),
    ):
        yield Sample(name, "counter", value, help_)
    for reason, value in (("full", counts.refused_full), ("late", counts.refused_late)):
        help_ = "Calls that were refused: too many waited, or they waited too long."
        yield Sample("gateway_admission_refused_total", "counter", value, help_, {"reason": reason})
    for why, count in report.left_places.items():
        help_ = "Sessions that are no longer hot at a worker, by the reason."
        yield Sample("gateway_admission_sessions_total", "counter", count, help_, {"reason": why})


def _of_workers(workers: Mapping[str, HotSessions]) -> Iterator[Sample]:
    for worker, found in workers.items():
        labels = {"worker": worker}
        help_ = "Sessions that are hot at the worker."
        yield Sample("gateway_admission_hot_sessions", "gauge", found.hot, help_, labels)
    for worker, found in workers.items():
        if found.limit is not None:
            help_ = "Sessions that may be hot at the worker."
            labels = {"worker": worker}
            yield Sample("gateway_admission_max_hot_sessions", "gauge", found.limit, help_, labels)
