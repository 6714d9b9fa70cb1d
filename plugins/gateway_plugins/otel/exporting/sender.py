"""What a sender is, and what became of a request."""

from typing import Literal, Protocol

import msgspec

MAX_REASON = 200
"""Maximum characters of a reason in the log."""


class Sent(msgspec.Struct, frozen=True):
    """The end of one request.

    `taken`: the collector has it; `rejected` of its spans it did not want. `again`: the same
    request may be sent again, after `retry_after` seconds if the collector said so. `reason` is for
    the log, without anything secret.
    """

    state: Literal["taken", "again", "refused"]
    reason: str = ""
    retry_after: float | None = None
    rejected: int = 0


class Sender(Protocol):
    def send(self, data: bytes, timeout: float) -> Sent:
        """Send an ExportTraceServiceRequest within `timeout` seconds. Never raises."""

    def close(self) -> None: ...


def again(reason: str, retry_after: float | None = None) -> Sent:
    return Sent("again", reason[:MAX_REASON], retry_after)


def refused(reason: str) -> Sent:
    return Sent("refused", reason[:MAX_REASON])
