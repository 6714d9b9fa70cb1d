"""The rules of admission: no place twice, nobody forgotten, principals in turn."""

import random
from collections.abc import Sequence

import pytest
from gateway_plugins.session_admission.admission import Admission
from gateway_plugins.session_admission.line import Ticket
from gateway_plugins.session_admission.options import Options, part_of
from gateway_plugins.session_admission.places import SessionKey
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import ConfigError

LIMITS: dict[str, int | None] = {"a": 1, "b": 2, "free": None}
TTL = 10.0

principals = st.sampled_from(["p", "q", "r"])
session_ids = st.sampled_from(["1", "2", "3", "4"])
bounded = st.sets(st.sampled_from(["a", "b"]), min_size=1).map(sorted)
any_workers = st.sets(st.sampled_from(sorted(LIMITS)), min_size=1).map(sorted)


class Sessions(RuleBasedStateMachine):
    """Calls of some sessions come, wait, move, end; time passes. What must hold is checked."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = dict(LIMITS)
        self.admission = Admission(self.limits.__getitem__, TTL)
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.allowed: dict[Ticket, Sequence[str]] = {}

    @rule(principal=principals, session_id=session_ids, workers=any_workers)
    def call(self, principal: str, session_id: str, workers: Sequence[str]) -> None:
        ticket = self.admission.ticket(SessionKey(principal, session_id))
        self.tickets.append(ticket)
        self.ask(ticket, workers)

    def ask(self, ticket: Ticket, workers: Sequence[str]) -> None:
        """As the plugin does for each choice of a worker."""
        self.allowed[ticket] = workers
        found = self.admission.hot_at(ticket, workers, self.now)
        if found is not None:
            assert ticket.place is not None
            assert ticket.place.worker == found
            return
        free = self.admission.free(workers)
        if free:
            self.admission.take(ticket, free[0])
        else:
            self.admission.wait(ticket, workers)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), workers=bounded)
    def choose_again(self, data: st.DataObject, workers: Sequence[str]) -> None:
        self.ask(data.draw(st.sampled_from(self.tickets)), workers)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), used=st.booleans(), final=st.booleans())
    def end(self, data: st.DataObject, used: bool, final: bool) -> None:
        ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        self.admission.end(ticket, self.now, used=used, final=final)

    @rule(seconds=st.sampled_from([0.0, 1.0, TTL / 2, TTL]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.admission.look(self.limits, self.now)

    @rule(principal=st.none() | principals, session_id=session_ids)
    def forget(self, principal: str | None, session_id: str) -> None:
        self.admission.places.forget(session_id, principal)

    @rule()
    def raise_a_limit(self) -> None:
        self.limits["a"] = (self.limits["a"] or 0) + 1
        self.admission.look(self.limits, self.now)

    @invariant()
    def never_more_than_the_limit_are_hot(self) -> None:
        for worker, limit in self.limits.items():
            hot = [place for place in self.admission.places if place.worker == worker]
            assert self.admission.places.hot(worker) == len(hot) == len({one.key for one in hot})
            assert limit is None or len(hot) <= limit

    @invariant()
    def nobody_waits_while_there_is_a_place(self) -> None:
        for ticket in self.admission.line:
            assert ticket.place is None
            assert self.admission.free(sorted(ticket.workers)) == []

    @invariant()
    def each_call_has_a_place_or_waits(self) -> None:
        waiting = set(self.admission.line)
        assert waiting == {ticket for ticket in self.tickets if ticket.place is None}
        assert len(self.admission.line) == len(waiting)
        for place in self.admission.places:
            running = sum(ticket.place is place for ticket in self.tickets)
            assert place.calls == running
            assert running or self.now < place.ended + TTL

    def teardown(self) -> None:
        """Whoever waits gets a place in the end, as those before end."""
        for _ in range(len(self.tickets) + 1):
            for ticket in [one for one in self.tickets if one.place is not None]:
                self.tickets.remove(ticket)
                self.admission.end(ticket, self.now)
            self.now += TTL
            self.admission.look(self.limits, self.now)
        assert self.tickets == []
        assert [*self.admission.places] == []


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=40, stateful_step_count=30)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_admission_lets_principals_take_turns(counts: list[int], chance: random.Random) -> None:
    """Whoever waits is served before another principal is served twice."""
    rules = Admission(lambda _: 1, 0.0)
    first = rules.ticket(SessionKey("first", "0"))
    rules.take(first, "a")
    sessions = [(f"p{at}", f"{n}") for at, count in enumerate(counts) for n in range(count)]
    chance.shuffle(sessions)
    waiting = [rules.ticket(SessionKey(*session)) for session in sessions]
    for ticket in waiting:
        assert rules.hot_at(ticket, ["a"], 0.0) is None
        rules.wait(ticket, ["a"])
    served = [first]
    while waiting:
        rules.end(served[-1], 0.0, final=True)
        [ticket] = [one for one in waiting if one.place is not None]
        waiting.remove(ticket)
        served.append(ticket)
    names = [ticket.key.principal for ticket in served[1:]]
    for at in range(max(counts)):
        rest = {f"p{place}" for place, count in enumerate(counts) if count > at}
        assert set(names[: len(rest)]) == rest
        names = names[len(rest) :]


def test_admission_serves_all_calls_of_a_session_at_once() -> None:
    rules = Admission(lambda _: 1, 60.0)
    one = rules.ticket(SessionKey("", "one"))
    rules.take(one, "a")
    others = [rules.ticket(SessionKey("", name)) for name in ("two", "three", "two")]
    for ticket in others:
        rules.wait(ticket, ["a"])
    rules.end(one, 0.0, final=True)
    assert [ticket.place is not None for ticket in others] == [True, False, True]
    assert rules.places.hot("a") == 1


def test_admission_moves_a_session_whose_worker_is_gone() -> None:
    rules = Admission(lambda _: 1, 60.0)
    ticket, again = (rules.ticket(SessionKey("", "one")) for _ in range(2))
    rules.take(ticket, "a")
    rules.end(ticket, 0.0)
    assert (rules.places.hot("a"), rules.hot_at(again, ["b"], 1.0)) == (1, None)
    rules.take(again, "b")
    assert (rules.places.hot("a"), rules.places.hot("b")) == (0, 1)
    assert rules.places.counts["moved"] == 1


@given(st.integers(1, 16), st.integers(16, 400), st.integers(0, 400))
def test_admission_is_divided_fully_among_processes(count: int, hot: int, waiting: int) -> None:
    options = Options(
        max_hot_per_worker=hot,
        max_hot_by_worker={"one": hot + 1, "free": None},
        max_waiting=waiting,
    )
    parts = [part_of(options, index, count) for index in range(count)]
    assert sum(part.max_hot_per_worker or 0 for part in parts) == hot
    assert sum(part.limit_of("one") or 0 for part in parts) == hot + 1
    assert all(part.limit_of("free") is None for part in parts)
    queues = [part.max_waiting for part in parts]
    assert sum(queues) == waiting if waiting >= count else set(queues) == {min(waiting, 1)}


def test_fewer_places_than_processes_are_rejected() -> None:
    with pytest.raises(ConfigError, match="max_hot_per_worker: 3 cannot be divided among 4"):
        part_of(Options(max_hot_per_worker=3), 0, 4)
