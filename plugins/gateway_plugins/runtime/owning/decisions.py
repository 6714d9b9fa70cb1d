"""The latest decisions of a runtime, with their reasons, for operators."""

import logging
import time
from collections import deque

import msgspec

log = logging.getLogger("gateway.runtime")

MOST = 200
"""Decisions that are kept for each runtime."""


class Event(msgspec.Struct, frozen=True):
    """What was decided, or happened, at `at` (Unix seconds): the state since then, and why."""

    at: float
    state: str
    reason: str


class Decisions:
    """The history of one runtime; each entry is logged, too."""

    def __init__(self, runtime: str) -> None:
        self._runtime = runtime
        self._events: deque[Event] = deque(maxlen=MOST)

    def note(self, state: object, reason: str) -> None:
        self._events.append(Event(time.time(), str(state), reason))
        log.info("runtime %s is %s: %s", self._runtime, state, reason)

    def latest(self) -> list[Event]:
        """Return them, the newest first."""
        return list(reversed(self._events))
