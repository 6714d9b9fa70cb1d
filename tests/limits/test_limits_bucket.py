"""A bucket gives what its limit says and no more, whoever asks, settles and waits when."""

from contextlib import nullcontext
from itertools import combinations

import pytest
from gateway_plugins.limits.accounts import Account, Accounts, Visit
from gateway_plugins.limits.book import Book
from gateway_plugins.limits.bucket import Bucket
from gateway_plugins.limits.need import ZERO_NEED, Need
from gateway_plugins.limits.options import KeyLimits, Options
from gateway_plugins.limits.refusing import LimitReached, span
from gateway_plugins.limits.rules import Rules, Terms
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

CLOSE = 1e-6
SECONDS = st.floats(0, 300, allow_nan=False)


def terms_of(**limits: int) -> Terms:
    terms = Rules(Options(default=KeyLimits(**limits))).terms("key", None)
    assert terms is not None
    return terms


class Bucketing(RuleBasedStateMachine):
    """Calls that come, are let in or not, and end having used what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.bucket = Bucket(100, 2.5, self.now)
        self.running: list[float] = []
        self.granted: list[tuple[float, float]] = []

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(amount=st.integers(1, 250))
    def ask(self, amount: int) -> None:
        wait = self.bucket.wait(amount, self.now)
        if not wait:
            self.running.append(self.bucket.take(amount))
            self.granted.append((self.now, self.running[-1]))
            return
        assert self.bucket.wait(amount, self.now + wait + 0.001) == 0, "it waits long enough"
        self.now += wait + 0.001

    @rule(used=st.integers(0, 400))
    def end(self, used: int) -> None:
        if self.running:
            taken = self.running.pop()
            before = self.bucket.refill(self.now)
            self.bucket.settle(taken, used, self.now)
            assert self.bucket.level == min(100, before + taken - used)

    @invariant()
    def holds_no_more_than_it_can(self) -> None:
        assert self.bucket.refill(self.now) <= 100

    @invariant()
    def is_never_below_nothing_before_calls_have_ended(self) -> None:
        assert self.bucket.wait(1, self.now) <= (400 * len(self.granted) + 1) / 2.5 + CLOSE


TestBucketing = Bucketing.TestCase


@given(st.lists(st.tuples(SECONDS, st.integers(1, 250)), max_size=30))
def test_bucket_grants_at_most_its_capacity_plus_refill(
    asks: list[tuple[float, int]],
) -> None:
    bucket, now = Bucket(100, 2.5, 0.0), 0.0
    granted = []
    for seconds, amount in asks:
        now += seconds
        if not bucket.wait(amount, now):
            granted.append((now, bucket.take(amount)))
    for first, last in combinations(range(len(granted)), 2):
        total = sum(taken for _, taken in granted[first : last + 1])
        assert total <= 100 + 2.5 * (granted[last][0] - granted[first][0]) + CLOSE


def test_bucket_admits_an_oversized_call_only_when_full() -> None:
    bucket = Bucket(100, 1.0, 0.0)
    assert bucket.wait(1_000, 0.0) == 0
    assert bucket.take(1_000) == 100
    assert bucket.wait(1_000, 10.0) == 90
    bucket.settle(100, 1_000, 10.0)
    assert bucket.level == -890
    assert bucket.wait(1, 10.0) == 891


@given(st.floats(-50, 100), SECONDS, SECONDS, st.integers(0, 100), st.integers(0, 100))
def test_bucket_settles_as_if_it_were_refilled_first(
    level: float, before: float, after: float, taken: int, used: int
) -> None:
    settled, refilled = Bucket(100, 2.5, 0.0), Bucket(100, 2.5, 0.0)
    settled.level = refilled.level = level
    settled.settle(taken, used, before)
    refilled.level = min(100, refilled.refill(before) + taken - used)
    assert settled.refill(before + after) == pytest.approx(refilled.refill(before + after))


def test_bucket_refills_nothing_if_the_clock_goes_back() -> None:
    bucket = Bucket(10, 1.0, 100.0)
    bucket.take(10)
    assert bucket.refill(50.0) == 0
    assert bucket.refill(101.0) == 1


def test_span_formats_times_like_openai() -> None:
    written = [span(seconds) for seconds in (0, 0.02, 0.9995, 1, 59.2, 60, 360, 3_605)]
    assert written == [b"0ms", b"20ms", b"1s", b"1s", b"1m0s", b"1m0s", b"6m0s", b"1h0m5s"]


@given(st.lists(st.tuples(st.sampled_from(["come", "finish", "settle"]), st.integers(0, 5))))
def test_account_never_exceeds_its_slots_and_gets_them_back(
    steps: list[tuple[str, int]],
) -> None:
    account, book = Account("key", terms_of(concurrent=3), 0.0), Book(0.0)
    visits: list[Visit] = []
    for step, which in steps:
        if step == "come":
            full = account.in_flight == 3
            with pytest.raises(LimitReached) if full else nullcontext():
                visits.append(account.enter(ZERO_NEED, book, 0.0))
        elif visits:
            visits[which % len(visits)].finished(None)  # again and again, for some
        assert 0 <= account.in_flight <= 3
    for visit in visits:
        visit.finished(None)
    assert account.in_flight == 0


def test_call_that_began_before_tokens_were_limited_counts_whole() -> None:
    account = Account("key", terms_of(concurrent=3), 0.0)
    visit = account.enter(Need(1_000, 0), Book(0.0), 0.0)
    account.change(terms_of(concurrent=3, tokens_per_minute=600), 0.0)
    account.settle(visit, Need(100, 0), 0.0)
    assert account.tokens is not None
    assert account.tokens.level == account.tokens.capacity - 100


def test_rejected_call_takes_nothing_from_its_account() -> None:
    terms = terms_of(requests_per_minute=10, tokens_per_minute=10, concurrent=1)
    account, book = Account("key", terms, 0.0), Book(0.0)
    account.enter(Need(4, 0), book, 0.0)
    for need in (Need(4, 0), Need(40, 0)):
        with pytest.raises(LimitReached):
            account.enter(need, book, 0.0)
    assert account.requests is not None
    assert account.tokens is not None
    assert (account.requests.level, account.tokens.level, account.in_flight) == (9, 6, 1)


def test_changed_limits_keep_the_usage_of_an_account() -> None:
    accounts, book = Accounts(), Book(0.0)
    few, many = terms_of(requests_per_minute=2), terms_of(requests_per_minute=60)
    account = accounts.of("key", few, 0.0)
    for _ in range(2):
        account.enter(ZERO_NEED, book, 0.0)
    assert accounts.of("key", many, 0.0) is account
    assert account.requests is not None
    assert (account.requests.level, account.requests.capacity) == (0, 60)
    assert account.requests.refill(2.0) == 2


async def test_sweep_forgets_only_idle_accounts() -> None:
    accounts, book = Accounts(), Book(0.0)
    terms = terms_of(requests_per_minute=60)
    accounts.of("idle", terms, 0.0)
    accounts.of("used", terms, 0.0).enter(ZERO_NEED, book, 0.0).finished(None)
    running = accounts.of("running", terms, -100.0).enter(ZERO_NEED, book, -100.0)
    await accounts.sweep(0.5)
    assert set(accounts.known) == {"used", "running"}
    running.finished(None)
    await accounts.sweep(1.0)
    assert not accounts.known
