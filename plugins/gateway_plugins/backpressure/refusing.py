"""Errors for calls that the queue does not take, or does not keep any longer."""

from gateway import CallError, TooManyRequests, retry_after


class Overloaded(CallError):
    """The workers have no room now; a later retry may find some."""

    status = 503
    type = "overloaded_error"


def absence(code: str, *, seconds: int) -> CallError:
    """Return the error of a call that waited, or could not wait, while no worker was fit.

    Always a 503: clients take a 429 for a limit of their own rate.
    """
    code = "no_worker" if code == "queue_timeout" else code
    headers = ((b"retry-after", b"%d" % seconds),)
    return Overloaded("no worker can take this call now", code=code, headers=headers)


def refusal(status: int, code: str, message: str, *, seconds: float) -> CallError:
    """Return a 429 or 503 that asks for a retry in `seconds`, within the bounds."""
    headers = ((b"retry-after", b"%d" % retry_after(seconds)),)
    kind = TooManyRequests if status == TooManyRequests.status else Overloaded
    return kind(message, code=code, headers=headers)
