"""Responses that were held back: the call may be sent again, and then nobody sees them.

If a worker responds with one of `failover.statuses`, another worker is tried, see
gateway.pipeline.failover. If a worker rejects injected fields, the call is sent to it again without
them, and the rejection is remembered. An engine that does not know `return_token_ids` may respond
with 400 or 422 and name the field. The message alone proves nothing, because a message about a
caller's own mistake can quote the request. So the call is sent once more without the fields that
are named, and the caller gets that second response. The second response is the proof: only if it is
no error did the injection cause the first.
"""

import re
from collections.abc import Collection, Iterable

from gateway.calls.observers import Observers
from gateway.errors import GatewayError
from gateway.headers import Headers
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import Reader, is_plain
from gateway.wire.injection import INJECTED_FIELDS, NO_INJECTIONS, Injection, listed

REFUSALS = frozenset((400, 422))
"""Statuses of a response that may reject injected fields."""

MAX_HELD_RESPONSE_BYTES = 64 * 1024
"""Maximum size in bytes of a response that is held back; a longer one is forwarded unread."""

# In a JSON string a line end before the name is two characters, and the second is a letter.
_NAMED = {
    injection: re.compile(rf"(?:\\[nrt]|(?<![A-Za-z0-9_]))(?:{fields})(?![A-Za-z0-9_])".encode())
    for injection, fields in INJECTED_FIELDS.items()
}


class HeldBack(GatewayError):
    """A response that was held back to its end; nothing has been sent to the caller yet."""


class WorkerRefused(HeldBack):
    """The worker responded with one of `failover.statuses`; `body` is the whole body."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"the worker answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


class InjectionRefused(HeldBack):
    """The worker rejected the request and named `injections`."""

    def __init__(self, injections: frozenset[Injection]) -> None:
        super().__init__(f"the worker refused {listed(injections)}")
        self.injections = injections


def hold(
    exchange: Exchange, status: int, headers: Headers, reader: Reader | None, *, refused: bool
) -> "Holding | None":
    """Return what holds this response back before `reader`; None if it goes to the caller at once.

    `refused`: another worker may be tried instead.
    """
    stripper = exchange.stripper
    injected = NO_INJECTIONS
    if stripper is not None and status in REFUSALS and is_plain(headers):
        injected = stripper.injected
    if not (refused or injected):
        return None
    return Holding(status, headers, exchange.observers, reader, injected=injected, refused=refused)


class Holding:
    """The Reader of a response that is held back until it is whole, and then judged.

    `close` raises InjectionRefused if the response names one of `injected`, which may have caused
    it. Else it raises WorkerRefused if `refused` is True: another worker can be tried. In both
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
        injected: Collection[Injection],
        refused: bool,
    ) -> None:
        self._head = (status, headers)
        self._observers = observers
        self._reader = reader
        self._injected = injected
        self._refused = refused
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
        named = named_in(body, self._injected)
        if named:
            raise InjectionRefused(named)
        if self._refused:
            raise WorkerRefused(*self._head, body)

    def _release(self, held: list[bytes]) -> bytes:
        self._held = None
        self.rewrites = False
        if self._observers.started or self._observers.counter:
            self._observers.notify_started(*self._head, events=False)
        return self._passed(b"".join(held)) if held else b""

    def _passed(self, data: bytes) -> bytes:
        return data if self._reader is None else self._reader.feed(data)


def named_in(refusal: bytes, injected: Iterable[Injection]) -> frozenset[Injection]:
    """Return the members of `injected` whose fields a rejection names or quotes."""
    return frozenset(one for one in injected if _NAMED[one].search(refusal))
