"""What happens when a worker did not answer: whether, when and why another is asked.

Never after a byte has gone to the caller. A generation that a worker may have run is not run again
unless `failover.rerun` says so; what a worker refused by status, or never got, it has not run.
"""

import random
from time import monotonic

from gateway.call import Call
from gateway.config import Failover
from gateway.errors import (
    CallError,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    UpstreamError,
)
from gateway.refusing import WorkerRefused
from gateway.upstream.unseen import ClosedUnseen

UNSEEN = (ConnectFailed, ConnectTimeout, ClosedUnseen)
"""After these the worker has seen nothing of the call."""

HARMLESS = frozenset(
    {"/tokenize", "/detokenize", "/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/classify"}
)
"""Paths whose POST samples nothing: asked twice, they answer the same at the same price."""

LONGEST_PAUSE = 5.0
"""Seconds that are waited for the next worker at most, on average."""

RESERVE = 1.0
"""Repeats a second that are allowed however few calls there are."""

MOST_SAVED = 100.0
"""Repeats that a budget saves up at most."""

SAVED_AT_FIRST = 10.0

Failure = CallError | WorkerRefused


class Budget:
    """How many repeats the traffic allows: a bucket filled by a share of the calls, and by time.

    A worker that fails under full load is thus not answered by twice the load on the others, see
    "retry budgets" in Finagle's and Linkerd's documentation.
    """

    def __init__(self) -> None:
        self._saved = SAVED_AT_FIRST
        self._seen = 0
        self._at = monotonic()

    def take(self, share: float, calls: int) -> bool:
        """Whether one more repeat is within `share` of the `calls` there have been so far."""
        now = monotonic()
        earned = share * (calls - self._seen) + RESERVE * (now - self._at)
        self._saved = min(MOST_SAVED, self._saved + earned)
        self._seen, self._at = calls, now
        if not share or self._saved < 1:
            return False
        self._saved -= 1
        return True


def may_repeat(call: Call, failure: Failure, asked: int, settings: Failover) -> bool:
    """Whether the call may be given to another worker, when the last of `asked` failed like this.

    A worker that has begun to answer is never replaced, for the observers have heard of it.
    """
    if call.reply.begun:
        return False
    if isinstance(failure, WorkerRefused):
        return failure.status != 429 or asked == 1
    if isinstance(failure, ConnectFailed | ConnectTimeout):
        return True
    if call.body.data is None or call.attempts[-1].status is not None:
        return False
    if isinstance(failure, UpstreamError | FirstByteTimeout):
        return isinstance(failure, ClosedUnseen) or may_run_again(call, settings)
    return False


def may_run_again(call: Call, settings: Failover) -> bool:
    """Whether it does no harm if two workers run it."""
    return settings.rerun or call.method in ("GET", "HEAD", "OPTIONS") or call.path in HARMLESS


def pause(failure: Failure, asked: int, settings: Failover) -> float:
    """Seconds to wait before the next worker is asked; none where the last saw nothing of it."""
    if isinstance(failure, UNSEEN):
        return 0.0
    doubled = settings.backoff * 2.0 ** min(asked - 1, 16)
    return min(LONGEST_PAUSE, doubled) * random.uniform(0.5, 1.5)


def in_time(call: Call, wait: float, settings: Failover) -> bool:
    """Whether another worker may still be asked, `wait` seconds from now."""
    return settings.deadline is None or monotonic() + wait - call.started < settings.deadline
