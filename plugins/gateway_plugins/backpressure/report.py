"""What the queue tells of itself: to operators, and to whoever counts."""

from collections import Counter

import msgspec

from gateway_plugins.backpressure.order import Ticket

MOST = 100
"""Principals and priorities that a report names; the ones with the most calls waiting."""


class Counts(msgspec.Struct):
    """What has happened since the start. `waited_seconds` are those of all calls that waited."""

    waited: int = 0
    waited_seconds: float = 0.0
    refused_full: int = 0
    refused_late: int = 0
    left: int = 0


class QueueReport(msgspec.Struct, kw_only=True):
    """The queue at this moment. Times are seconds, `drain_rate` is slots freed a second.

    `promised` slots are about to be taken by calls that waited for them. `by_principal` has ids; a
    call that nobody vouched for is under "".
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
    return dict(Counter(str(ticket.priority) for ticket in waiting).most_common(MOST))


def by_principal(waiting: list[Ticket]) -> dict[str, int]:
    principals = (ticket.call.principal for ticket in waiting)
    return dict(Counter("" if one is None else one.id for one in principals).most_common(MOST))
