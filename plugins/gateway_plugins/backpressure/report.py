"""Report of the queue, for operators and for metrics."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from gateway import Sample
from gateway_plugins.backpressure.order import Ticket

MAX_LISTED = 100
"""Maximum principals and priorities in a report: those with the most waiting calls."""


class Counts(msgspec.Struct):
    """Events since the start. `waited_seconds` is the sum for all calls that waited."""

    waited: int = 0
    waited_seconds: float = 0.0
    refused_full: int = 0
    refused_late: int = 0
    left: int = 0


class QueueReport(msgspec.Struct, kw_only=True):
    """The queue at this moment. Times are seconds, `drain_rate` is slots freed per second.

    `promised`: slots that calls are about to take after a wait. `by_principal` is by id; calls
    without a principal are under "".
    """

    length: int
    max_length: int
    oldest_wait: float
    drain_rate: float
    in_flight: int
    promised: int
    max_in_flight: int | None
    max_in_flight_by_worker: dict[str, int | None]
    by_priority: dict[str, int]
    by_principal: dict[str, int]
    counts: Counts


def by_priority(waiting: list[Ticket]) -> dict[str, int]:
    return dict(Counter(str(ticket.priority) for ticket in waiting).most_common(MAX_LISTED))


def by_principal(waiting: list[Ticket]) -> dict[str, int]:
    principals = (ticket.call.principal for ticket in waiting)
    return dict(
        Counter("" if one is None else one.id for one in principals).most_common(MAX_LISTED)
    )


def samples_of(report: QueueReport) -> Iterator[Sample]:
    counts = report.counts
    for name, calls, help_ in (
        ("gateway_queue_length", report.length, "Calls that wait for a slot."),
        ("gateway_queue_max_length", report.max_length, "Calls that may wait at a time."),
        ("gateway_queue_promised", report.promised, "Slots about to be taken by who waited."),
    ):
        yield Sample(name, "gauge", calls, help_)
    yield _oldest(report.oldest_wait)
    for name, value, help_ in (
        ("gateway_queue_waited_total", counts.waited, "Calls that have had to wait."),
        ("gateway_queue_waited_seconds_total", counts.waited_seconds, "Their waits together."),
        ("gateway_queue_left_total", counts.left, "Calls whose caller left while they waited."),
    ):
        yield Sample(name, "counter", value, help_)
    for reason, value in (("full", counts.refused_full), ("late", counts.refused_late)):
        help_ = "Calls that were refused: the queue was full, or they waited too long."
        yield Sample("gateway_queue_refused_total", "counter", value, help_, {"reason": reason})


def _oldest(wait: float) -> Sample:
    help_ = "The longest wait of those."
    return Sample("gateway_queue_oldest_wait_seconds", "gauge", wait, help_, merge="max")
