"""Reports the limits to callers: errors, and headers on every response with what is left."""

import time
from math import ceil
from typing import Literal, get_args

from gateway import TooManyRequests
from gateway_plugins.limits.bucket import Bucket

Code = Literal[
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_calls",
    "tokens_per_day",
    "tokens_per_month",
    "cost_per_day",
    "cost_per_month",
]

CODES: tuple[Code, ...] = get_args(Code)

RETRY_MARGIN_MS = 1
"""Milliseconds added to the wait in an error, so that rounding causes no second rejection."""

CONCURRENT_WAIT = 1.0
"""Seconds after which a call may have ended: a guess, as the end is unknown."""

Line = tuple[bytes, bytes]


class LimitReached(TooManyRequests):
    """A limit of the caller's key is reached; `name` is the error's code."""

    def __init__(
        self, message: str, *, code: Code, seconds: float, headers: tuple[Line, ...] = ()
    ) -> None:
        wait = ceil(seconds * 1_000) + RETRY_MARGIN_MS
        retry = (
            (b"retry-after", b"%d" % -(-wait // 1_000)),
            (b"retry-after-ms", b"%d" % wait),
        )
        super().__init__(message, code=code, headers=(*retry, *headers))
        self.name = code


def too_fast(code: Code, limit: float, seconds: float) -> LimitReached:
    what = code.split("_", 1)[0]
    return LimitReached(
        f"this key may use {limit:.0f} {what} per minute ({code}); come back in {_spoken(seconds)}",
        code=code,
        seconds=seconds,
    )


def too_many_at_once(limit: int) -> LimitReached:
    return LimitReached(
        f"this key may have {limit} calls running at a time (concurrent_calls); "
        "come back when one of them has ended",
        code="concurrent_calls",
        seconds=CONCURRENT_WAIT,
    )


def budget_exceeded(
    code: Code, limit: float, left: float, needed: float, ends: float
) -> LimitReached:
    """Return the error for a budget with less `left` than a call may need.

    The budget starts anew at `ends`, Unix time. `x-should-retry` keeps OpenAI's clients from
    retrying by themselves.
    """
    what, _, period = code.split("_")
    begins = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends))
    return LimitReached(
        f"this key may use a {what} of {limit:.10g} per {period} ({code}): {max(left, 0):.10g} is "
        f"left, and this call may use {needed:.10g}; come back at {begins}, or ask for less"
        if what == "cost"
        else f"this key may use {limit:.0f} tokens per {period} ({code}): {max(left, 0):.0f} are "
        f"left, and this call may use {needed:.0f}; come back at {begins}, or ask for less",
        code=code,
        seconds=max(ends - time.time(), 0),
        headers=((b"x-should-retry", b"false"),),
    )


class BucketLines:
    """The three headers of one bucket, with OpenAI's names."""

    __slots__ = ("_limit", "_remaining", "_reset")

    def __init__(self, what: Literal["requests", "tokens"], capacity: float) -> None:
        name = what.encode()
        self._limit = (b"x-ratelimit-limit-" + name, b"%d" % capacity)
        self._remaining = b"x-ratelimit-remaining-" + name
        self._reset = b"x-ratelimit-reset-" + name

    def of(self, bucket: Bucket, now: float) -> tuple[Line, Line, Line]:
        level = bucket.refill(now)
        return (
            self._limit,
            (self._remaining, b"%d" % level if level > 0 else b"0"),
            (self._reset, span((bucket.capacity - level) / bucket.rate)),
        )


def span(seconds: float) -> bytes:
    """Format a duration as OpenAI does, rounded up: `20ms`, `1s`, `6m0s`, `1h0m5s`."""
    if seconds <= 0.999:
        return b"%dms" % ceil(seconds * 1_000)
    whole = ceil(seconds)
    if whole < 60:
        return b"%ds" % whole
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return b"%dm%ds" % (minutes, rest)
    return b"%dh%dm%ds" % (*divmod(minutes, 60), rest)


def _spoken(seconds: float) -> str:
    return span(max(seconds, 0.001)).decode()
