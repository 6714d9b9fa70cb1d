"""The sampled turns of sessions that are in memory."""

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from gateway_plugins.trace_capture.tito.history import History, agrees
from gateway_plugins.trace_capture.tito.suffix import End

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of token ids in memory; the turns of sessions that were idle longest are dropped."""

MAX_TURNS = 16
"""Turns of a session in memory: the branches that a request may continue. The store has more."""

TURN_OVERHEAD = 600
"""Approximate bytes of a turn, besides its ids."""


class Turn(msgspec.Struct, frozen=True):
    """One sampled turn. `prompt` and `sampled` are token ids as int32.

    `digest` is that of the conversation with the turn, and `thoughts` are those of its messages.
    """

    trace_id: str
    digest: bytes
    thoughts: list[bytes]
    prompt: bytes
    sampled: bytes
    end: End

    @property
    def size(self) -> int:
        return TURN_OVERHEAD + len(self.prompt) + len(self.sampled) + 40 * len(self.thoughts)


_NO_TURNS: OrderedDict[bytes, Turn] = OrderedDict()


class Turns:
    """Keeps the latest turns of each session, at most about MAX_BYTES in all."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._sessions: OrderedDict[str, OrderedDict[bytes, Turn]] = OrderedDict()
        self._size = 0

    def add(self, session_id: str, turn: Turn) -> None:
        turns = self._sessions.pop(session_id, None) or OrderedDict()
        self._sessions[session_id] = turns
        self._drop(turns, turn.digest)
        turns[turn.digest] = turn
        self._size += turn.size
        while len(turns) > MAX_TURNS:
            self._drop(turns, next(iter(turns)))
        while self._size > self._max_bytes and len(self._sessions) > 1:
            self.forget(next(iter(self._sessions)))

    def has(self, session_id: str) -> bool:
        return session_id in self._sessions

    def longest(
        self, session_id: str, history: History, stored: Sequence[Turn] = ()
    ) -> tuple[int, Turn] | None:
        """Return the latest turn that the history has, and the position of its message.

        The turns of the session are those in memory and the `stored` ones.
        """
        turns = {turn.digest: turn for turn in stored}
        turns |= self._sessions.get(session_id, _NO_TURNS)
        for place in history.answers() if turns else ():
            turn = turns.get(history.digests[place])
            if turn is not None and agrees(history.thoughts[: place + 1], turn.thoughts):
                if session_id in self._sessions:
                    self._sessions.move_to_end(session_id)
                return place, turn
        return None

    def forget(self, session_id: str) -> None:
        """Forget a session: it was deleted."""
        for turn in self._sessions.pop(session_id, OrderedDict()).values():
            self._size -= turn.size

    def _drop(self, turns: OrderedDict[bytes, Turn], digest: bytes) -> None:
        turn = turns.pop(digest, None)
        if turn is not None:
            self._size -= turn.size
