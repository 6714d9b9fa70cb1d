"""The order of those who wait, and how long the others are told to stay away."""

import math

import pytest
from gateway_plugins.backpressure.order import Kind, Order, Party, Ticket
from gateway_plugins.backpressure.ranked import MAX_STALE, Ranked
from gateway_plugins.backpressure.rate import WINDOW, Rate
from gateway_plugins.backpressure.refusing import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import Worker, get_header
from gateway.testing import make_call

NOBODY: frozenset[Worker] = frozenset()
KIND = Kind(None, NOBODY, NOBODY)
QUICKLY = settings(max_examples=50, deadline=None)
STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3) | st.none()), max_size=150)
CALLS = st.lists(
    st.tuples(st.integers(-1, 1), st.sampled_from("pqr"), st.sampled_from("st"), st.booleans()),
    max_size=40,
)


@QUICKLY
@given(STEPS)
def test_ranked_returns_the_lowest_rank_first(steps: list[tuple[int, int | None]]) -> None:
    ranked: Ranked[int] = Ranked()
    ranks: dict[int, int] = {}
    for item, rank in steps:
        if rank is None:
            ranked.drop(item)
            ranks.pop(item, None)
        else:
            ranked.put(item, (rank, item))
            ranks[item] = rank
        expected = min(((rank, item) for item, rank in ranks.items()), default=None)
        found = ranked.first()
        assert (None if found is None else found[0]) == expected
        assert len(ranked) == len(ranks)


def test_ranked_bounds_its_stale_entries() -> None:
    ranked: Ranked[int] = Ranked()
    ranked.put(0, (0,))
    for rank in range(10_000):
        ranked.put(1, (rank + 1,))
    assert len(ranked._heap) <= 2 * len(ranked) + MAX_STALE


@QUICKLY
@given(CALLS)
def test_order_serves_the_lowest_ranked_ticket(
    given_calls: list[tuple[int, str, str, bool]],
) -> None:
    """Against the rule itself, which looks at all who wait; some end and others go on."""
    order = Order()
    waiting: list[Ticket] = []
    flying: list[Ticket] = []
    sessions: dict[int, tuple[Party, Party]] = {}
    for arrival, (priority, principal, session, ends) in enumerate(given_calls):
        whose = sessions[arrival] = order.party(principal), order.party(principal, session)
        ticket = Ticket(make_call(), arrival, priority, *whose)
        order.join(ticket, KIND)
        waiting.append(ticket)
        if ends and flying:
            flying.pop(0).fly(False)
        if arrival % 2:
            first = order.first([KIND])
            assert first is not None
            assert first is min(waiting, key=_rank)
            order.leave(first)
            waiting.remove(first)
            first.fly(True)
            flying.append(first)
    while waiting:
        first = order.first([KIND])
        assert first is min(waiting, key=_rank)
        order.leave(first)
        waiting.remove(first)
    assert len(order) == 0
    assert order.kinds() == []
    assert not any(party.groups for pair in sessions.values() for party in pair)


def _rank(ticket: Ticket) -> tuple[int, ...]:
    """Between sessions of one principal by theirs; the first of each stands for the others."""
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
