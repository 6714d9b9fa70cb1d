"""Responses that are held back: the call may be sent again, and then nobody sees them.

If a worker responds with one of `failover.statuses`, another worker is tried, see
gateway.pipeline.failover. If a worker rejects injected fields, the call is sent to it again without
them, and the rejection is remembered. An engine that does not know `return_token_ids` may respond
with 400 or 422 and name the field. The message alone proves nothing, because a message about a
caller's own mistake can quote the request. So the call is sent once more without the fields that
are named, and the caller gets that second response. The second response is the proof: only if it is
no error did the injection cause the first.
"""

import logging
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.headers import Headers
from gateway.wire.injection import _FIELDS, Injection, _listed

if TYPE_CHECKING:
    from gateway.calls.observers import Observers
    from gateway.pipeline.readers import Reader

log = logging.getLogger("gateway")

REFUSALS = frozenset((400, 422))

HELD_BACK = 64 * 1024
"""Maximum size in bytes of a response that is held back; a longer one is forwarded unread."""


# In a JSON string a line end before the name is two characters, and the second is a letter.
_NAMED = {
    injection: re.compile(rf"(?:\\[nrt]|(?<![A-Za-z0-9_]))(?:{fields})(?![A-Za-z0-9_])".encode())
    for injection, fields in _FIELDS.items()
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
        super().__init__(f"the worker refused {_listed(injections)}")
        self.injections = injections


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
        observers: "Observers",
        reader: "Reader | None",
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
        return b"" if self._size <= HELD_BACK else self._release(self._held)

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
