"""Counts traces that could not be stored, until the file counts them."""

import math
import threading
from collections.abc import Mapping, Sequence

import msgspec


class Loss(msgspec.Struct, frozen=True):
    """Lost traces of one session; `caller` is the principal of the first of their calls.

    `started` is the `time.monotonic()` at which the latest of them began.
    """

    count: int
    caller: str | None
    started: float = math.inf


class Losses:
    """Losses by session. Thread-safe."""

    def __init__(self) -> None:
        self._unmarked: dict[str, Loss] = {}
        self._marking: dict[str, Loss] = {}
        self._lock = threading.Lock()

    def add(self, session_id: str, caller: str | None, started: float = math.inf) -> None:
        with self._lock:
            known = self._unmarked.get(session_id, Loss(0, caller))
            self._unmarked[session_id] = Loss(known.count + 1, known.caller, started)

    def forget(self, session_ids: Sequence[str], caller: str | None) -> None:
        """Forget the losses of deleted sessions; with `caller`, only those that `count` returns."""
        with self._lock:
            for session_id in session_ids:
                found = self._unmarked.get(session_id)
                if found is not None and caller in (None, found.caller):
                    del self._unmarked[session_id]

    def count(self, session_id: str, caller: str | None = None) -> int:
        """Number of lost traces; with `caller`, 0 if another principal made the first call."""
        with self._lock:
            found = self._unmarked.get(session_id)
        return found.count if found is not None and caller in (None, found.caller) else 0

    def begin(self) -> Mapping[str, Loss]:
        """Return the losses that a transaction is about to count in the file."""
        if not self._unmarked:
            self._marking = {}
            return self._marking
        with self._lock:
            self._marking = self._unmarked.copy()
            return self._marking

    def end(self) -> None:
        """Remove the losses given by `begin`: the transaction is committed."""
        if not self._marking:
            return
        with self._lock:
            for session_id, marked in self._marking.items():
                known = self._unmarked.pop(session_id, marked)
                if known.count > marked.count:
                    left = known.count - marked.count
                    self._unmarked[session_id] = Loss(left, known.caller, known.started)
            self._marking = {}
