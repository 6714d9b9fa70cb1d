"""Traces that could not be stored, until the file counts them."""

import threading
from collections.abc import Mapping

import msgspec


class Loss(msgspec.Struct, frozen=True):
    """Traces of one session; `caller` is the principal of the first of their calls."""

    count: int
    caller: str | None


class Losses:
    """By session. Its methods may be called in any thread."""

    def __init__(self) -> None:
        self._unmarked: dict[str, Loss] = {}
        self._marking: dict[str, Loss] = {}
        self._lock = threading.Lock()

    def add(self, session_id: str, caller: str | None) -> None:
        with self._lock:
            known = self._unmarked.get(session_id, Loss(0, caller))
            self._unmarked[session_id] = Loss(known.count + 1, known.caller)

    def of(self, session_id: str, caller: str | None = None) -> int:
        """How many there are; with `caller` only where the first of them was that one's."""
        with self._lock:
            found = self._unmarked.get(session_id)
        return found.count if found is not None and caller in (None, found.caller) else 0

    def begin(self) -> Mapping[str, Loss]:
        """Those that a transaction is about to count in the file."""
        with self._lock:
            self._marking = self._unmarked.copy()
            return self._marking

    def end(self) -> None:
        """It is committed."""
        with self._lock:
            for session_id, marked in self._marking.items():
                known = self._unmarked.pop(session_id)
                if known.count > marked.count:
                    self._unmarked[session_id] = Loss(known.count - marked.count, known.caller)
            self._marking = {}
