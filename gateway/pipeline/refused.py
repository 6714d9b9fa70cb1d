"""Responses that are held back: the call may be sent again, and then nobody sees them.

If a response shows that the worker has not run the call, or has one of `failover.statuses`, another
worker may be tried, see gateway.pipeline.failover. If a worker rejects injected fields, the call is
sent to it again without them, and the rejection is remembered. An engine that does not know
`return_token_ids` may respond with 400 or 422 and name the field. The message alone proves nothing,
because a message about a caller's own mistake can quote the request. So the call is sent once more
without the fields that are named, and the caller gets that second response. The second response is
the proof: only if it is no error did the injection cause the first. If the words are those of an
engine that is asked for token ids in its own way, the worker is asked so from then on.
"""

import re
from collections.abc import Callable, Iterable
from typing import Literal

from gateway.calls.observers import Observers
from gateway.calls.records import Attempt
from gateway.config import Failover
from gateway.errors import GatewayError
from gateway.headers import Headers, get_header, is_plain
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import Reader
from gateway.wire.injected_keys import INJECTED_FIELDS, Injection, listed
from gateway.wire.injection import Stripper
from gateway.wire.refusal import NO_MODEL, lacks_scale_out, read_refusal, rejects_as_sglang

Reason = Literal["busy", "not_this", "no_model", "no_access", "status"]
"""Why another worker may be tried. After the first four the worker has run nothing: it takes no
call now, or not this one, does not have the model, or does not let the gateway in. `status`: one of
`failover.statuses`, and nothing tells whether the call has run."""

FORBIDDEN = 403
NO_ACCESS = (401, FORBIDDEN)

REFUSALS = frozenset((400, 422))
"""Statuses of a response that may reject injected fields."""

MAX_HELD_RESPONSE_BYTES = 64 * 1024
"""Maximum size in bytes of a response that is held back; a longer one is forwarded unread."""

_SECONDS = re.compile(rb"[0-9]{1,9}")

# In a JSON string a line end before the name is two characters, and the second is a letter.
_NAMED = {
    injection: re.compile(rf"(?:\\[nrt]|(?<![A-Za-z0-9_]))(?:{fields})(?![A-Za-z0-9_])".encode())
    for injection, fields in INJECTED_FIELDS.items()
}


class HeldBack(GatewayError):
    """A response that was held back to its end; nothing has been sent to the caller yet."""


class WorkerRefused(HeldBack):
    """Another worker may be tried because of `reason`; `body` is the whole body."""

    def __init__(self, status: int, headers: Headers, body: bytes, reason: Reason) -> None:
        super().__init__(f"the worker answered {status}")
        self.reason = reason
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def passes(self) -> bool:
        """Whether the worker may soon take the call; a status below 500 is the caller's matter."""
        return self.reason == "busy" and self.status >= 500

    @property
    def asked_for(self) -> float:
        """Seconds until the worker wants to be asked again, 0 if it does not say in seconds."""
        value = get_header(self.headers, b"retry-after") or b""
        return float(value) if _SECONDS.fullmatch(value) else 0.0


class InjectionRefused(HeldBack):
    """The worker rejected the request and named `injections`; none: ask it again in its own way."""

    def __init__(self, injections: frozenset[Injection]) -> None:
        super().__init__(f"the worker refused {listed(injections)}")
        self.injections = injections


def hold(
    exchange: Exchange,
    attempt: Attempt | None,
    status: int,
    headers: Headers,
    reader: Reader | None,
    settings: Failover,
) -> "Holding | None":
    """Return what holds this error response back before `reader`; None if it is sent at once."""
    stripper = exchange.stripper if status in REFUSALS and is_plain(headers) else None
    doubted = attempt is not None and not attempt.last and _is_doubted(attempt, status, settings)
    may_lack = status == FORBIDDEN and is_plain(headers)
    if attempt is None or not (doubted or stripper or may_lack):
        return None

    def judge(body: bytes) -> Reason | None:
        if may_lack and lacks_scale_out(body):
            attempt.worker.scale_out.note_lacking()
        return _reason(attempt, status, body, settings) if doubted else None

    def named(body: bytes) -> frozenset[Injection] | None:
        return None if stripper is None else _rejected(body, stripper, attempt)

    return Holding(status, headers, exchange.observers, reader, named=named, judge=judge)


def _is_doubted(attempt: Attempt, status: int, settings: Failover) -> bool:
    """Whether this error status may be a reason to try another worker."""
    if status in NO_ACCESS:
        return attempt.worker.remote and not attempt.worker.settings.forward_authorization
    return (
        status in settings.statuses
        or status in NO_MODEL
        or status in attempt.worker.settings.refuses_with
    )


def _reason(attempt: Attempt, status: int, body: bytes, settings: Failover) -> Reason | None:
    if status in NO_ACCESS:
        return "no_access"
    said = read_refusal(status, body)
    if said is not None:
        return said
    # By HTTP a 4xx is the caller's to mend, so the request was not carried out.
    listed_here = status in settings.statuses
    if status in attempt.worker.settings.refuses_with or (listed_here and status < 500):
        return "busy"
    return "status" if listed_here else None


class Holding:
    """The Reader of a response that is held back until it is whole, and then judged.

    `close` raises InjectionRefused if `named` returns a set for the body, of injections that may
    have caused it. Else it raises WorkerRefused if `judge` returns a reason for the body. In both
    cases the observers never see the response. Any other response, and one that is too long to
    hold, passes through `reader` as if it had not been held.
    """

    rewrites = True

    def __init__(
        self,
        status: int,
        headers: Headers,
        observers: Observers,
        reader: Reader | None,
        *,
        named: Callable[[bytes], frozenset[Injection] | None],
        judge: Callable[[bytes], Reason | None],
    ) -> None:
        self._head = (status, headers)
        self._observers = observers
        self._reader = reader
        self._named = named
        self._reason = judge
        self._held: list[bytes] | None = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        if self._held is None:
            return self._passed(data)
        self._held.append(data)
        self._size += len(data)
        return b"" if self._size <= MAX_HELD_RESPONSE_BYTES else self._release(self._held)

    def close(self) -> bytes:
        rest = b""
        if self._held is not None:
            self._judge(b"".join(self._held))
            rest = self._release(self._held)
        return rest + (self._reader.close() if self._reader is not None else b"")

    def _judge(self, body: bytes) -> None:
        named = self._named(body)
        if named is not None:
            raise InjectionRefused(named)
        reason = self._reason(body)
        if reason is not None:
            raise WorkerRefused(*self._head, body, reason)

    def _release(self, held: list[bytes]) -> bytes:
        self._held = None
        self.rewrites = False
        if self._observers.started or self._observers.counts_tokens:
            self._observers.notify_started(*self._head, events=False)
        return self._passed(b"".join(held)) if held else b""

    def _passed(self, data: bytes) -> bytes:
        return data if self._reader is None else self._reader.feed(data)


def _rejected(body: bytes, stripper: Stripper, attempt: Attempt) -> frozenset[Injection] | None:
    """Return the injections to send the call again without; None if the response names none."""
    named = named_in(body, stripper.injected)
    if "token_ids" in named and stripper.engine is None and rejects_as_sglang(body):
        attempt.worker.refusals.engine.note_refusal()
        return named - {"token_ids"}
    return named or None


def named_in(refusal: bytes, injected: Iterable[Injection]) -> frozenset[Injection]:
    """Return the members of `injected` whose fields a rejection names or quotes."""
    return frozenset(one for one in injected if _NAMED[one].search(refusal))
