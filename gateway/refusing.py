"""Answers that are held back: the call may be sent once more, and then nobody hears of them.

A worker that answers with one of `failover.statuses` is passed by for another, see
gateway.failover. One that refuses what is injected is noticed, asked again without it, and
remembered. An engine that does not know `return_token_ids` may answer 400 or 422 and name it. Its
words alone prove nothing, for a caller's own mistake can be told in words that quote the request.
So the worker is asked once more without the fields named, and what it says then is what the caller
gets. That second answer is the proof: only where it is no refusal did the injection cause the
first.
"""

import logging
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.headers import Headers
from gateway.wire.injection import INJECTIONS, Injection

if TYPE_CHECKING:
    from gateway.observing import Observers
    from gateway.reading import Reader

log = logging.getLogger("gateway")

REFUSALS = frozenset((400, 422))

HELD_BACK = 64 * 1024
"""Bytes of a refusal that are read before it goes on; a longer one goes on unread."""

NONE: frozenset[Injection] = frozenset()

_ALL: frozenset[Injection] = frozenset(INJECTIONS)
_FIELDS: dict[Injection, str] = {
    "token_ids": "return_token_ids",
    "logprobs": "logprobs|top_logprobs",
    "usage": "stream_options|include_usage",
}
# In a JSON string a line end before the name is two characters, the second of them a letter.
_NAMED = {
    injection: re.compile(rf"(?:\\[nrt]|(?<![A-Za-z0-9_]))(?:{fields})(?![A-Za-z0-9_])".encode())
    for injection, fields in _FIELDS.items()
}


class HeldBack(GatewayError):
    """An answer that was held back to its end; the caller was sent nothing yet."""


class WorkerRefused(HeldBack):
    """The worker answered with one of `failover.statuses`; `body` is the whole of it."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(f"the worker answered {status}")
        self.status = status
        self.headers = headers
        self.body = body


class InjectionRefused(HeldBack):
    """The worker refused the request and named `injections`."""

    def __init__(self, injections: frozenset[Injection]) -> None:
        super().__init__(f"the worker refused {_listed(injections)}")
        self.injections = injections


class Refusals:
    """What one worker does not take of what is injected, for as long as the gateway runs.

    Told apart by dialect: an engine may know `logprobs` in chat and not in completions. What it has
    taken once it does not refuse as such, whatever it says of a later request.
    """

    __slots__ = ("_refused", "_taken", "_worker")

    def __init__(self, worker: str, *, inject: bool) -> None:
        """`inject` false: nothing is ever injected."""
        self._worker = worker
        self._refused: dict[str, frozenset[Injection]] | None = {} if inject else None
        self._taken: dict[str, frozenset[Injection]] = {}

    def of(self, dialect: str) -> frozenset[Injection]:
        """What is not to be injected into calls of `dialect`."""
        return _ALL if self._refused is None else self._refused.get(dialect, NONE)

    def learn(
        self, dialect: str, taken: frozenset[Injection], left_out: frozenset[Injection]
    ) -> None:
        """An answer without error came with `taken`; it had not with `left_out`."""
        known = self._taken.get(dialect, NONE)
        if not taken <= known:
            self._taken[dialect] = known = known | taken
        if left_out and self._refused is not None:
            new = left_out - known - self.of(dialect)
            if new:
                self._refused[dialect] = self.of(dialect) | new
                log.warning(
                    "worker %s refuses %s in %s calls; it is called without, and what that would "
                    "have told is missing from traces",
                    self._worker,
                    _listed(new),
                    dialect,
                )


class Holding:
    """The Reader of an answer that is held back until it is whole, and then judged.

    Where it names one of `injected`, that may have been its cause: `close` raises InjectionRefused.
    `refused`: another worker can be asked in its place; else `close` raises WorkerRefused. The
    observers then never hear of the answer. Any other, and one that is too long to hold, goes on
    through `reader` as if it had not been held.
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
            self._observers.tell_started(*self._head, events=False)
        return self._passed(b"".join(held)) if held else b""

    def _passed(self, data: bytes) -> bytes:
        return data if self._reader is None else self._reader.feed(data)


def named_in(refusal: bytes, injected: Iterable[Injection]) -> frozenset[Injection]:
    """Those of `injected` whose fields a worker's refusal names, or quotes."""
    return frozenset(one for one in injected if _NAMED[one].search(refusal))


def _listed(injections: Iterable[Injection]) -> str:
    return ", ".join(sorted(_FIELDS[one].partition("|")[0] for one in injections))
