"""What becomes of an item, for any end of a call."""

import time

from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.items import (
    COMPLETED,
    ERROR,
    EXPIRED,
    QUEUED,
    Claimed,
    Ended,
)
from gateway_plugins.batch.running.caller import Keeping
from gateway_plugins.batch.running.verdict import DeadlinePassed, Preempted, judge
from hypothesis import given
from hypothesis import strategies as st

from gateway import CallError, NoWorker, Outcome, UpstreamError, UpstreamTimeout
from gateway.errors import (
    BodyTooLarge,
    ConnectFailed,
    ConnectTimeout,
    Draining,
    DrainTimeout,
    HookFailed,
    NotFound,
    TooManyRequests,
    UpstreamClosed,
)
from gateway.testing import make_call

OPTIONS = Options()

ERRORS: list[CallError] = [
    BodyTooLarge("x"),
    ConnectFailed("x"),
    ConnectTimeout(1.0),
    DeadlinePassed("x"),
    Draining("x"),
    DrainTimeout("x"),
    HookFailed("x"),
    NoWorker("x"),
    NotFound("x"),
    Preempted("x"),
    TooManyRequests("x"),
    UpstreamClosed("x"),
    UpstreamError("x"),
    UpstreamTimeout(1.0),
]

BODIES = st.one_of(
    st.just(b""),
    st.just(b'{"error": {"message": "no"}}'),
    st.just(b'{"error": "no"}'),
    st.just(b'{"error": [1, {"message": 2}]}'),
    st.just(b'{"detail": "no"}'),
    st.binary(max_size=40),
)


@st.composite
def items(draw: st.DrawFn) -> Claimed:
    attempt = draw(st.integers(1, 50))
    return Claimed(
        number=1,
        id="item",
        lane=1,
        kind="other",
        path="/v1/chat/completions",
        model="sim",
        batch=None,
        holder=7,
        attempt=attempt,
        charged=draw(st.integers(0, min(attempt - 1, OPTIONS.max_attempts - 1))),
        deadline=time.time() + draw(st.sampled_from([-10.0, 0.5, 1e5])),
        principal=None,
        body=b"",
    )


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    """Also those that the gateway never has: a response may have begun before any error."""
    return Outcome(
        status=draw(st.sampled_from([0, 200, 204, 302, 400, 404, 408, 425, 429, 500, 503, 599])),
        complete=draw(st.booleans()),
        caller_gone=draw(st.booleans()),
        error=draw(st.none() | st.sampled_from(ERRORS)),
        duration=draw(st.floats(0, 10)),
    )


def judged(item: Claimed, outcome: Outcome, body: bytes, most: int, told: bytes) -> Ended:
    kept = Keeping(most)
    call = make_call()
    call.outcome = outcome
    if outcome.status:
        kept.start(outcome.status, [(b"retry-after", told)])
        kept.receive_last(body)
    return judge(call, kept, item, OPTIONS)


@given(
    items(),
    outcomes(),
    BODIES,
    st.sampled_from([0, 1000]),
    st.sampled_from([b"", b"3", b"999999999999", b"Wed, 21 Oct 2099 07:28:00 GMT", b"\xff"]),
)
def test_verdict_of_any_end_is_one_that_the_contract_allows(
    item: Claimed, outcome: Outcome, body: bytes, most: int, told: bytes
) -> None:
    end = judged(item, outcome, body, most, told)
    status = outcome.status if outcome.error is None else outcome.error.status
    assert end.item is item
    if end.state == COMPLETED:
        assert 200 <= outcome.status < 300
        assert end.answer == body
        assert end.error is None
    else:
        assert end.error is not None
    if end.state == QUEUED:
        assert end.answer is None
        assert status in (408, 429) or status >= 500 or status < 300
        pause = end.due - end.at
        assert 0 <= pause <= OPTIONS.max_pause
        # Only what makes room for others begins again at once.
        given_up = isinstance(outcome.error, Draining | Preempted)
        assert given_up == (pause == 0)
        assert given_up or pause >= OPTIONS.min_pause
        assert not end.counts or item.charged + 1 < OPTIONS.max_attempts
        assert not end.counts or end.due < item.deadline
    if end.state == ERROR:
        assert end.expires is not None
        assert (end.status is None) == (end.answer is None)


@given(items(), st.sampled_from(ERRORS), st.sampled_from([0, 200, 503]))
def test_verdict_on_work_that_nobody_did_never_counts(
    item: Claimed, error: CallError, begun: int
) -> None:
    end = judged(item, Outcome(status=begun or error.status, error=error), b"", 1000, b"")
    not_run = error.status in (429, 503) or isinstance(error, ConnectFailed | ConnectTimeout)
    if isinstance(error, DeadlinePassed):
        assert end.state == ERROR
        assert EXPIRED in (end.error or "")
    elif not_run:
        assert (end.state, end.counts) == (QUEUED, False)


@given(items(), st.integers(1, 1000))
def test_verdict_on_a_response_that_is_too_large_is_an_error_without_it(
    item: Claimed, more: int
) -> None:
    outcome = Outcome(status=200, complete=True)
    end = judged(item, outcome, b" " * (100 + more), 100, b"")
    assert (end.state, end.answer, end.status) == (ERROR, None, None)
    assert "response_too_large" in (end.error or "")
