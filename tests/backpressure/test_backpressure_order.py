"""The order of those who wait, and how long the others are told to stay away."""

import math

import pytest
from gateway_plugins.backpressure.order import Kind, Order, Ticket
from gateway_plugins.backpressure.ranked import MAX_STALE, Rank, Ranked
from gateway_plugins.backpressure.rate import WINDOW, Rate
from gateway_plugins.backpressure.refusing import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import Principal, Worker, get_header
from gateway.testing import make_call

NOBODY: frozenset[Worker] = frozenset()
KIND = Kind(None, NOBODY, NOBODY)
QUICKLY = settings(max_examples=50)
STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3) | st.none()), max_size=150)
CALLS = st.lists(
    st.tuples(st.integers(-1, 1), st.sampled_from("pqr"), st.sampled_from("st"), st.booleans()),
    max_size=40,
)


class Thing:
    """An item whose rank is set from outside."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.listed: Rank | None = None
        self.urgency = 0

    def rank(self) -> Rank:
        return self.urgency, self.number


@QUICKLY
@given(STEPS)
def test_ranked_returns_the_lowest_rank_first(steps: list[tuple[int, int | None]]) -> None:
    """Ranks that have fallen are offered; those that have risen are not."""
    ranked: Ranked[Thing] = Ranked()
    things = [Thing(number) for number in range(6)]
    there: set[Thing] = set()
    for number, urgency in steps:
        thing = things[number]
        if urgency is None:
            ranked.drop(thing)
            there.discard(thing)
        else:
            offered = thing not in there or urgency < thing.urgency
            thing.urgency = urgency
            there.add(thing)
            if offered:
                ranked.offer(thing)
        assert ranked.first() is min(there, key=Thing.rank, default=None)
        assert len(ranked) == len(there)


def test_ranked_bounds_its_stale_entries() -> None:
    ranked: Ranked[Thing] = Ranked()
    first, other = Thing(0), Thing(1)
    ranked.offer(first)
    for urgency in range(10_000, 0, -1):
        other.urgency = urgency
        ranked.offer(other)
        assert len(ranked._heap) <= 2 * len(ranked) + MAX_STALE
    for number in range(10_000):
        short = Thing(number + 2)
        ranked.offer(short)
        ranked.drop(short)
        assert len(ranked._heap) <= 2 * (len(ranked) + 1) + MAX_STALE
    assert ranked.first() is first


@QUICKLY
@given(CALLS)
def test_order_serves_the_lowest_ranked_ticket(
    given_calls: list[tuple[int, str, str, bool]],
) -> None:
    """Against the rule itself, which looks at all who wait; some end and others go on."""
    order = Order()
    waiting: list[Ticket] = []
    flying: list[Ticket] = []
    begun: list[Ticket] = []
    for arrival, (priority, principal, session, ends) in enumerate(given_calls):
        call = make_call(session_id=session)
        call.principal = Principal(principal)
        ticket = Ticket(call, arrival, priority)
        order.begin(ticket)
        order.join(ticket, KIND)
        waiting.append(ticket)
        begun.append(ticket)
        if ends and flying:
            _check_counts(flying)
            again = flying.pop(0)
            again.fly(False)
            if again.arrival % 3 == 0:
                order.join(again, KIND)
                waiting.append(again)
        if arrival % 2:
            first = order.first(KIND)
            assert first is not None
            assert first is min(waiting, key=_rank)
            order.leave(first)
            waiting.remove(first)
            first.fly(True)
            flying.append(first)
    while waiting:
        first = order.first(KIND)
        assert first is min(waiting, key=_rank)
        order.leave(first)
        waiting.remove(first)
    assert len(order) == 0
    assert not order.lines
    for ticket in begun:
        order.end(ticket)
    assert not order._parties


def test_tickets_that_went_by_count_once_another_one_waits() -> None:
    """Also those of which one has ended since, and one waits after all."""
    order = Order()
    calls = [make_call() for _ in range(5)]
    for call, principal in zip(calls, "ppqqp", strict=True):
        call.principal = Principal(principal)
    one, two, other, ended, late = (Ticket(call, at) for at, call in enumerate(calls))
    for ticket in (one, two, other, ended):
        order.go(ticket)
    order.end(ended)
    assert not order._parties
    order.join(late, KIND)
    order.join(other, KIND)
    _check_counts([one, two])
    assert (other.in_flight, late.in_flight) == (False, False)
    assert order.first(KIND) is other
    for ticket in (one, two, other, late):
        order.end(ticket)
    assert not order._parties
    assert not order.passing


def _check_counts(flying: list[Ticket]) -> None:
    for ticket in flying:
        principal, session = ticket.principal, ticket.session
        assert principal is not None
        assert session is not None
        assert principal.in_flight == sum(one.principal is principal for one in flying)
        assert session.in_flight == sum(one.session is session for one in flying)


def _rank(ticket: Ticket) -> tuple[int, ...]:
    """Between sessions of one principal by theirs; the first of each stands for the others."""
    assert ticket.principal is not None
    assert ticket.session is not None
    return (
        -ticket.priority,
        ticket.principal.in_flight,
        ticket.session.in_flight,
        ticket.arrival,
    )


@QUICKLY
@given(st.floats(0.5, 50))
def test_rate_measures_recent_events(rate: float) -> None:
    measured = Rate(0.0)
    for event in range(round(rate * WINDOW * 3)):
        measured.note((event + 1) / rate)
    assert measured.value(WINDOW * 3) == pytest.approx(rate, rel=0.25)
    assert measured.value(WINDOW * 13) < rate / 1_000


@QUICKLY
@given(st.floats(0, 1e9) | st.just(math.inf))
def test_retry_after_is_within_bounds(seconds: float) -> None:
    for status in (429, 503):
        error = refusal(status, "queue_full", "full", seconds=seconds)
        said = int(get_header(error.headers, b"retry-after") or 0)
        assert said == min(max(math.ceil(min(seconds, 61)), 1), 59)
        assert error.status == status
