"""What becomes of an item after a call for it: it has ended, or it runs again later."""

import random

import msgspec

from gateway import Call, CallError, NoWorker, error_message
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.items import (
    COMPLETED,
    ERROR,
    EXPIRED,
    QUEUED,
    Claimed,
    Ended,
    ItemError,
)
from gateway_plugins.batch.running.caller import Keeping

REPEATED = frozenset((408, 429))
"""Statuses below 500 after which an item runs again."""

NOT_RUN = frozenset((0, 429, 503))
"""Statuses that say that no worker has done the work, so it does not count as an attempt. 0: the
call was given up before it had a response."""

NEVER_RECEIVED = frozenset(("upstream_connect_failed", "upstream_connect_timeout"))
"""Codes of the gateway's own errors for a call that no worker has received."""

GIVEN_UP = frozenset(("draining", "drain_timeout", "preempted"))
"""Codes of calls that were ended for the sake of others: the item may run again at once."""

MAX_MESSAGE = 500
"""Characters of an error's message that are stored with the item."""


class DeadlinePassed(CallError):
    """Ends the call of an item that has not ended by its deadline."""

    status = 504
    code = EXPIRED


class Preempted(NoWorker):
    """Ends the call of an item that has to make room; the item is queued again."""

    code = "preempted"


def judge(call: Call, kept: Keeping, item: Claimed, options: Options) -> Ended:
    """Return how the call ended for the item; the item's times are Unix seconds."""
    now, outcome = call.created + call.outcome.duration, call.outcome
    status = outcome.status if outcome.error is None else outcome.error.status
    if kept.is_full:
        error = ItemError("response_too_large", "the response is larger than may be stored")
        return _over(call, item, ERROR, now, options, None, error)
    if outcome.result == "success" and 200 <= status < 300:
        return _over(call, item, COMPLETED, now, options, kept)
    error = _error(call, kept)
    if error.code == EXPIRED:
        return _over(call, item, ERROR, now, options, None, error)
    counts = _counts(status, error.code)
    due = now + _pause(item, counts, error.code, kept.retry_after, options)
    if not _is_repeated(status, error.code) or (counts and _is_last(item, due, options)):
        return _over(call, item, ERROR, now, options, kept, error)
    return Ended(
        item=item,
        state=QUEUED,
        at=now,
        error=_text(error),
        request_id=call.id,
        due=due,
        counts=counts,
        usage=outcome.usage,
    )


def _over(
    call: Call,
    item: Claimed,
    state: int,
    now: float,
    options: Options,
    kept: Keeping | None,
    error: ItemError | None = None,
) -> Ended:
    status, answer = (None, None) if kept is None else _response(call, kept)
    return Ended(
        item=item,
        state=state,
        at=now,
        status=status,
        answer=answer,
        error=None if error is None else _text(error),
        request_id=call.id,
        expires=now + options.keep_results,
        usage=call.outcome.usage,
    )


def _response(call: Call, kept: Keeping) -> tuple[int | None, bytes | None]:
    """Return the status and body to store: the gateway's own in place of a part of a worker's."""
    own, status = call.outcome.error, call.outcome.status
    if own is not None and own.status != status:
        return own.status, own.body()
    return (status, kept.body) if status else (None, None)


def _is_repeated(status: int, code: str) -> bool:
    """Whether another call may go better: a worker was at fault, was busy, or was not there."""
    return status in REPEATED or status >= 500 or status < 300 or code in NEVER_RECEIVED


def _counts(status: int, code: str) -> bool:
    return status not in NOT_RUN and code not in NEVER_RECEIVED


def _is_last(item: Claimed, due: float, options: Options) -> bool:
    """Whether an attempt that counts was the last: there are no more, or no time is left."""
    return item.charged + 1 >= options.max_attempts or due >= item.deadline


def _pause(item: Claimed, counts: bool, code: str, asked: float, options: Options) -> float:
    """Return seconds until the next attempt: doubled for each one before, or what is `asked` for.

    0 for a call that was given up: the item keeps its place in the queue.
    """
    if code in GIVEN_UP:
        return 0.0
    before = item.charged if counts else item.attempt - 1
    pause = min(options.min_pause * 2.0 ** min(before, 30), options.max_pause)
    spread = min(pause * (1 + 0.2 * random.random()), options.max_pause)
    return max(spread, min(asked, options.max_pause))


def _error(call: Call, kept: Keeping) -> ItemError:
    own = call.outcome.error
    if own is not None:
        return ItemError(own.code, str(own)[:MAX_MESSAGE])
    code = call.outcome.error_code or (str(call.outcome.status or "aborted"))
    message = _message(kept.body) or call.outcome.ending.error or f"the worker answered {code}"
    return ItemError(code, str(message)[:MAX_MESSAGE])


def _message(body: bytes) -> str | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return error_message(found.get("error")) if isinstance(found, dict) else None


def _text(error: ItemError) -> str:
    return msgspec.json.encode(error).decode()
