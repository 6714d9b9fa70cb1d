"""One timer for all phases of an attempt."""

import asyncio
from collections.abc import Callable

from gateway.errors import GatewayError

LATE = 0.05
"""Seconds; a timer that fires so late says more of the gateway than of the worker."""


class Patience:
    """Base of what waits for a worker: `timed_out` is called when nothing was heard for too long.

    A phase and each read only note the time. The timer looks at it when it fires, and goes off
    again later if need be; it is set anew only where it would come too late.
    """

    __slots__ = ("_due", "_error", "_last", "_loop", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def timed_out(self, error: GatewayError) -> None:
        """The present phase took too long."""
        raise error

    def enter(self, seconds: float | None, error: Callable[[float], GatewayError]) -> None:
        """Begin a phase: `seconds` after the last read it ends with `error(seconds)`.

        With None it never does. Whoever reads sets `_last` to the loop's time at each read.
        """
        self._seconds = seconds
        self._error = error
        self._last = self._loop.time()
        if seconds is not None and (self._timer is None or self._due > self._last + seconds):
            self._set(seconds)

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, seconds: float) -> None:
        self.leave()
        self._due = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._seconds is None:
            return
        now = self._loop.time()
        left = self._last + self._seconds - now
        if left > 0:
            self._set(left)
        elif now - self._due > LATE:
            self._set(LATE)  # the loop was held up, and has not read what came meanwhile
        else:
            self.timed_out(self._error(self._seconds))
