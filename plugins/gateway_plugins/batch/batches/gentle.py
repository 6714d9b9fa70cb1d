"""Long work in a thread, beside the event loop that carries calls.

A thread that computes gives way to another one only each 5 ms (`sys.setswitchinterval`), so every
turn of the event loop would take that much longer while a file is read.
"""

import time
from collections.abc import Callable

WORK, REST = 0.0005, 0.0005
"""Seconds of work, and of the rest that follows it."""


class Stopped(Exception):
    """The gateway ends before the work is done."""


class Gentle:
    """Rests between pieces of work. `is_stopped` tells that the gateway ends."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped
        self._since = time.perf_counter()

    def step(self) -> None:
        """Rest if it is time to: called before each piece of work. Raises Stopped."""
        if time.perf_counter() - self._since < WORK:
            return
        if self._is_stopped():
            raise Stopped
        time.sleep(REST)
        self._since = time.perf_counter()
