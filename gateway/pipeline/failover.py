"""Failover: whether, when and why a call goes to another worker.

A call never fails over after a byte has gone to the caller. A generation that a worker may have run
does not run again unless `failover.rerun` is set. A worker has not run a call that it never
received, or that it refused in a way that tells (see gateway.pipeline.refused); a status from 500
alone tells nothing.
"""

import random
from collections.abc import Sequence
from time import monotonic

from gateway.calls.call import Call
from gateway.config import Failover
from gateway.errors import (
    CallError,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    UpstreamError,
)
from gateway.fleet.registry import Workers
from gateway.fleet.worker import Worker
from gateway.pipeline.choice.keeping import is_kept, names_object
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.refused import WorkerRefused
from gateway.upstream.delivery import ClosedBeforeDelivery

NEVER_RECEIVED = (ConnectFailed, ConnectTimeout, ClosedBeforeDelivery)
"""Errors after which the worker has received nothing of the call."""

MAX_PAUSE = 5.0
"""Maximum pause in seconds before the next worker, on average."""

MIN_REPEATS_PER_SECOND = 1.0
"""Repeats per second that are always allowed, even with few calls."""

MAX_SAVED_REPEATS = 100.0
"""Maximum repeats that a budget saves up."""

INITIAL_REPEATS = 10.0

TOO_MANY = 429

Failure = CallError | WorkerRefused


class Budget:
    """Limits repeats by the traffic: a token bucket filled by a share of the calls, and by time.

    So a worker that fails under full load does not double the load on the others, see "retry
    budgets" in Finagle's and Linkerd's documentation.
    """

    def __init__(self) -> None:
        self._saved = INITIAL_REPEATS
        self._seen = 0
        self._at = monotonic()

    def take(self, share: float, calls: int) -> bool:
        """Take one repeat, or return False if the budget has none left.

        `calls` counts all calls so far; each one adds `share` of a repeat to the budget.
        """
        now = monotonic()
        earned = share * (calls - self._seen) + MIN_REPEATS_PER_SECOND * (now - self._at)
        self._saved = min(MAX_SAVED_REPEATS, self._saved + earned)
        self._seen, self._at = calls, now
        if not share or self._saved < 1:
            return False
        self._saved -= 1
        return True


async def others(workers: Workers, call: Call, failure: Failure, tried: Sequence[Worker]) -> bool:
    """Whether a worker that was not tried may take the call after `failure` of the last one.

    If that worker does not have the model, the others are those that say they have it. They are
    asked for their models once more if none does: the model may have been loaded just now. No other
    worker may take a call about an object that the last one keeps.
    """
    if is_kept(call):
        return False
    model = call.model if workers.mixed or isinstance(failure, WorkerRefused) else None
    if model is None or not (isinstance(failure, WorkerRefused) and failure.reason == "no_model"):
        fit = workers.serving(model if workers.mixed else None).fit
        return any(worker not in tried for worker in fit)
    if tried[-1].claims(model):
        workers.deny(tried[-1], model)
    if _claimed(workers, model, tried):
        return True
    await workers.refresh_models()
    return _claimed(workers, model, tried)


def _claimed(workers: Workers, model: str, tried: Sequence[Worker]) -> bool:
    fit = workers.serving(model).fit
    return any(worker not in tried and worker.claims(model) for worker in fit)


def may_repeat(exchange: Exchange, failure: Failure, asked: int, settings: Failover) -> bool:
    """Whether the call may go to another worker after the last of `asked` failed with `failure`.

    A worker that has begun to respond is never replaced, because the observers have seen its head.
    """
    call = exchange.call
    if exchange.reply.begun:
        return False
    if isinstance(failure, ConnectFailed | ConnectTimeout):
        return True
    if call.body.data is None:
        return False
    if isinstance(failure, WorkerRefused):
        if failure.reason == "status":
            return may_run_again(call, settings)
        return failure.status != TOO_MANY or asked == 1
    if call.attempts[-1].status is not None:
        return False
    if isinstance(failure, UpstreamError | FirstByteTimeout):
        return isinstance(failure, ClosedBeforeDelivery) or may_run_again(call, settings)
    return False


def may_wait(exchange: Exchange, failure: Failure, workers: Workers) -> bool:
    """Whether the call counts as not sent, and waits for this worker, or for another engine."""
    return _is_held(exchange, failure, workers) or _is_awaited(exchange.call, failure, workers)


def _is_held(exchange: Exchange, failure: Failure, workers: Workers) -> bool:
    """Whether a plugin holds the call until the worker that refused it may be asked again.

    A refusal of a call about an object may be for that object alone, so that one is not held.
    """
    call = exchange.call
    if workers.hold is None or not isinstance(failure, WorkerRefused) or not failure.passes:
        return False
    if exchange.reply.begun or call.body.data is None or names_object(call):
        return False
    attempt = call.attempts[-1]
    return workers.hold(attempt.worker, call.model, attempt.started, failure.asked_for)


def _is_awaited(call: Call, failure: Failure, workers: Workers) -> bool:
    """Whether the call may wait for another engine of its model: this one was gone by then."""
    if not isinstance(failure, NEVER_RECEIVED) or call.attempts[-1].worker.fit:
        return False
    sent_again = call.body.data is not None or not isinstance(failure, ClosedBeforeDelivery)
    return sent_again and workers.may_load(call.model)


def may_run_again(call: Call, settings: Failover) -> bool:
    """Whether two workers may run the call: it does no harm, or `failover.rerun` is set."""
    if settings.rerun or call.method in ("GET", "HEAD", "OPTIONS"):
        return True
    api = call.api
    return api is not None and api.repeatable


def pause(failure: Failure, asked: int, settings: Failover) -> float:
    """Seconds to wait before the next worker; 0 if the last one received nothing of the call."""
    if isinstance(failure, NEVER_RECEIVED):
        return 0.0
    doubled = settings.backoff * 2.0 ** min(asked - 1, 16)
    return min(MAX_PAUSE, doubled) * random.uniform(0.5, 1.5)


def in_time(call: Call, wait: float, settings: Failover) -> bool:
    """Whether the deadline allows another worker `wait` seconds from now."""
    return settings.deadline is None or monotonic() + wait - call.started < settings.deadline
