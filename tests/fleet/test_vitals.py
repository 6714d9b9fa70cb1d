"""What probes and calls tell of a worker together, by a table and by any order of events."""

import errno
import socket
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.errors import (
    CallError,
    ConnectFailed,
    OutOfSockets,
    UpstreamClosed,
    UpstreamTimeout,
)
from gateway.fleet.probing.vitals import Calls, FailureKind, Signs, State, Vitals, failure_kind
from gateway.upstream.phase_timer import NEVER

FALL = 3
RISE = 2
PERIOD = 5.0
NOW = 1_000.0

SIGNS: dict[Calls, Signs] = {
    "well": Signs(well=NOW, bad=NOW),
    "bad": Signs(well=NOW - 100, bad=NOW),
    "none": Signs(well=NOW - 100, bad=NOW - 100),
}

TABLE: dict[tuple[FailureKind, Calls], tuple[State, State]] = {
    ("refused", "well"): ("down", "down"),
    ("refused", "bad"): ("down", "down"),
    ("refused", "none"): ("down", "down"),
    ("unresolved", "well"): ("suspect", "suspect"),
    ("unresolved", "bad"): ("down", "down"),
    ("unresolved", "none"): ("down", "down"),
    ("failed", "well"): ("down", "suspect"),
    ("failed", "bad"): ("down", "down"),
    ("failed", "none"): ("down", "down"),
    ("late", "well"): ("suspect", "suspect"),
    ("late", "bad"): ("down", "down"),
    ("late", "none"): ("down", "suspect"),
}
"""The state of a worker whose probes fail: while another one is fit, and while it is the last."""


def fail(
    vitals: Vitals, kind: FailureKind, times: int, calls: Calls = "none", *, last: bool
) -> State:
    for back in range(times):
        vitals.failed(kind, NOW - times + back, SIGNS[calls], last=last)
    return vitals.state


@pytest.mark.parametrize("kind", get_args(FailureKind))
@pytest.mark.parametrize("calls", get_args(Calls))
@pytest.mark.parametrize("last", [False, True])
def test_failing_probes_and_calls_give_the_state_of_the_table(
    kind: FailureKind, calls: Calls, *, last: bool
) -> None:
    assert (
        fail(Vitals(FALL, RISE, PERIOD), kind, FALL, calls, last=last) == TABLE[kind, calls][last]
    )


@pytest.mark.parametrize("kind", ["failed", "late"])
def test_a_worker_is_judged_after_as_many_failures_as_configured(kind: FailureKind) -> None:
    vitals = Vitals(FALL, RISE, PERIOD)
    assert fail(vitals, kind, FALL - 1, last=False) == "up"
    assert fail(vitals, kind, 1, last=False) == "down"


@pytest.mark.parametrize("kind", ["refused", "unresolved"])
def test_an_absent_worker_is_down_at_once_and_up_after_one_success(kind: FailureKind) -> None:
    vitals = Vitals(FALL, RISE, PERIOD)
    assert fail(vitals, kind, 1, last=True) == "down"
    assert vitals.hopeful
    assert vitals.succeeded() == "up"


def test_a_worker_that_was_down_is_up_after_as_many_successes_as_configured() -> None:
    vitals = Vitals(FALL, RISE, PERIOD)
    fail(vitals, "refused", FALL, last=True)
    assert vitals.succeeded() == "down"
    assert vitals.hopeful, "it is looked at again soon"
    assert vitals.succeeded() == "up"
    known = Vitals(FALL, RISE, PERIOD, "down")
    assert [known.succeeded() for _ in range(RISE)] == ["down", "up"]


def test_lateness_does_not_excuse_an_earlier_refusal_until_a_call_goes_well() -> None:
    vitals = Vitals(FALL, RISE, PERIOD)
    fail(vitals, "refused", 1, last=True)
    assert fail(vitals, "late", FALL, last=True) == "down", (
        "it starts: it listens, and is not ready"
    )
    assert fail(vitals, "late", 1, "well", last=True) == "suspect"


def test_calls_count_only_while_they_are_as_recent_as_the_failures() -> None:
    vitals = Vitals(FALL, RISE, PERIOD)
    states = [vitals.failed("late", at, Signs(well=0.5), last=False) for at in range(0, 50, 5)]
    assert states[:4] == ["up", "up", "suspect", "down"]


def test_a_late_worker_is_taken_out_once_another_one_is_fit() -> None:
    vitals = Vitals(FALL, RISE, PERIOD)
    assert fail(vitals, "late", FALL, last=True) == "suspect"
    assert fail(vitals, "late", 1, last=False) == "down"
    assert fail(vitals, "late", 1, last=True) == "suspect", "the other one has died"


def caused(number: int, message: str = "no") -> ConnectFailed:
    error = ConnectFailed("the worker cannot be reached")
    error.__cause__ = OSError(number, message) if number else OSError(message)
    return error


def unresolved() -> ConnectFailed:
    error = ConnectFailed("the worker cannot be reached")
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return error


SEVERAL = "Multiple exceptions: [Errno 99] cannot assign ('::1'), [Errno 111] refused ('127.0.0.1')"
SHORT = "Multiple exceptions: [Errno 111] refused ('::1'), [Errno 24] too many files ('127.0.0.1')"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (caused(errno.ECONNREFUSED), "refused"),
        (caused(errno.EHOSTUNREACH), "refused"),
        (caused(0, SEVERAL), "refused"),
        (caused(0, SHORT), None),
        (caused(errno.ENOBUFS), None),
        (OutOfSockets(), None),
        (caused(errno.ECONNRESET), "failed"),
        (unresolved(), "unresolved"),
        (ConnectFailed("TLS with the worker failed"), "failed"),
        (UpstreamClosed("gone"), "failed"),
        (UpstreamTimeout(3.0), "late"),
    ],
)
def test_the_kind_of_a_failure_tells_an_absent_worker_from_others(
    error: CallError, kind: FailureKind | None
) -> None:
    assert failure_kind(error) == kind


class AnyOrder(RuleBasedStateMachine):
    """Probes and calls of one worker in any order, with a clock that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.vitals = Vitals(FALL, RISE, PERIOD)
        self.well = self.bad = self.refused = NEVER
        self.last = True
        self.failures = self.successes = 0

    @rule(seconds=st.floats(0.1, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call_goes_well(self) -> None:
        self.well = self.now

    @rule()
    def call_fails(self) -> None:
        self.bad = self.now

    @rule()
    def others_come_and_go(self) -> None:
        self.last = not self.last

    @rule()
    def probe_goes_well(self) -> None:
        self.failures, self.successes = 0, self.successes + 1
        state = self.vitals.succeeded()
        assert state == "up" or self.successes < RISE

    @rule(kind=st.sampled_from(get_args(FailureKind)))
    def probe_fails(self, kind: FailureKind) -> None:
        self.now += 0.1
        self.failures, self.successes = self.failures + 1, 0
        before = self.vitals.state
        state = self.vitals.failed(kind, self.now, Signs(self.well, self.bad), last=self.last)
        if kind == "refused":
            self.refused = self.now
            assert state == "down"
        elif before != "down" and self.last and self.goes_well():
            assert state != "down", "the last worker, and its calls go well"
        elif kind in ("late", "failed") and self.failures < FALL:
            assert state == before

    def goes_well(self) -> bool:
        """Whether a call has gone well since the last refusal, and within the latest period."""
        return self.well > self.refused and self.well >= self.now - PERIOD


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30)
