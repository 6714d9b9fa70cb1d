"""Errors for calls that may not wait for a place, or not any longer."""

from gateway import CallError, TooManyRequests, retry_after


class SessionsFull(CallError):
    """As many sessions are hot as may be; a later retry may find a place."""

    status = 503
    type = "overloaded_error"


def refusal(status: int, code: str, message: str, *, seconds: float) -> CallError:
    """Return a 429 or 503 that asks for a retry in `seconds`, within the bounds."""
    headers = ((b"retry-after", b"%d" % retry_after(seconds)),)
    kind = TooManyRequests if status == TooManyRequests.status else SessionsFull
    return kind(message, code=code, headers=headers)
