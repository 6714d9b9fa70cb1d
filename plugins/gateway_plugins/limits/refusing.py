"""Reports the limits to callers: errors, and headers on every response with what is left."""

import time
from functools import cache
from math import ceil
from typing import Literal, get_args

import msgspec

from gateway import MAX_RETRY_AFTER, TooManyRequests
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

CONCURRENT: Code = "concurrent_calls"

RETRY_MARGIN_MS = 1
"""Milliseconds added to the wait in an error, so that rounding causes no second rejection."""

CONCURRENT_WAIT = 1.0 - RETRY_MARGIN_MS / 1_000
"""Seconds after which a call may have ended, a second with the margin: a guess."""

Line = tuple[bytes, bytes]

SOON = 0.999
"""Seconds up to which a time is given in milliseconds."""


class LimitReached(TooManyRequests):
    """A limit of the caller's key is reached; `name` is the error's code.

    `until`: Unix time from which a retry can succeed. If that is more than MAX_RETRY_AFTER seconds
    away, or if `retry` is False, `x-should-retry: false` keeps OpenAI's and Anthropic's clients
    from retrying.
    """

    def __init__(self, message: str, *, code: Code, until: float, retry: bool = True) -> None:
        self._resets_at = _at(until)
        lines = self._lines(max(until - time.time(), 0), retry=retry)
        super().__init__(message, code=code, headers=lines)
        self.name = code

    def _lines(self, seconds: float, *, retry: bool) -> tuple[Line, ...]:
        wait = min(ceil(seconds * 1_000) + RETRY_MARGIN_MS, MAX_RETRY_AFTER * 1_000)
        lines = (
            (b"retry-after", b"%d" % -(-wait // 1_000)),
            (b"retry-after-ms", b"%d" % wait),
            (b"x-ratelimit-resets-at", self._resets_at.encode()),
        )
        if retry and seconds <= MAX_RETRY_AFTER:
            return lines
        return (*lines, (b"x-should-retry", b"false"))

    def body(self) -> bytes:
        """Return the envelope, with the time of the reset beside the error's other members."""
        envelope = msgspec.json.decode(super().body())
        envelope["error"]["resets_at"] = self._resets_at
        return msgspec.json.encode(envelope)


def too_fast(code: Code, limit: float, seconds: float) -> LimitReached:
    what = code.split("_", 1)[0]
    return LimitReached(
        f"this key may use {limit:.0f} {what} per minute ({code}); come back in {_spoken(seconds)}",
        code=code,
        until=time.time() + seconds,
    )


def too_many_at_once(limit: int) -> LimitReached:
    return LimitReached(
        f"this key may have {limit} calls running at a time (concurrent_calls); "
        "come back when one of them has ended",
        code=CONCURRENT,
        until=time.time() + CONCURRENT_WAIT,
    )


def budget_exceeded(
    code: Code, limit: float, left: float, needed: float, ends: float
) -> LimitReached:
    """Return the error for a budget with less `left` than a call may need.

    The budget starts anew at `ends`, Unix time.
    """
    what, _, period = code.split("_")
    return LimitReached(
        f"this key may use a {what} of {limit:.10g} per {period} ({code}): {max(left, 0):.10g} is "
        f"left, and this call may use {needed:.10g}; come back at {_at(ends)}, or ask for less"
        if what == "cost"
        else f"this key may use {limit:.0f} tokens per {period} ({code}): {max(left, 0):.0f} are "
        f"left, and this call may use {needed:.0f}; come back at {_at(ends)}, or ask for less",
        code=code,
        until=ends,
        retry=False,
    )


class BucketLines:
    """The three headers of one bucket, with OpenAI's names."""

    __slots__ = ("_limit", "_remaining", "_reset", "_soon")

    def __init__(self, what: Literal["requests", "tokens"], capacity: float) -> None:
        name = what.encode()
        self._limit = (b"x-ratelimit-limit-" + name, b"%d" % capacity)
        self._remaining = b"x-ratelimit-remaining-" + name
        self._reset = b"x-ratelimit-reset-" + name
        self._soon = _soon_lines(self._reset)

    def of(self, bucket: Bucket, now: float) -> tuple[Line, Line, Line]:
        level = bucket.refill(now) if now > bucket.at else bucket.level
        seconds = (bucket.capacity - level) / bucket.rate
        return (
            self._limit,
            (self._remaining, b"%d" % level if level > 0 else b"0"),
            self._soon[ceil(seconds * 1_000)] if seconds <= SOON else (self._reset, span(seconds)),
        )


@cache
def _soon_lines(name: bytes) -> tuple[Line, ...]:
    """Return the headers `name` for all times that most calls have, by their milliseconds."""
    return tuple((name, b"%dms" % number) for number in range(1_000))


def span(seconds: float) -> bytes:
    """Format a duration as OpenAI does, rounded up: `20ms`, `1s`, `6m0s`, `1h0m5s`."""
    if seconds <= SOON:
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


def _at(moment: float) -> str:
    """Format a Unix time in UTC as RFC 3339 does, rounded up to a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ceil(moment)))
