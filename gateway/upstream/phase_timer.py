"""A single timer for all phases of an attempt."""

import asyncio
from collections.abc import Callable

from gateway.errors import GatewayError

MAX_TIMER_DELAY = 0.05
"""Seconds; a timer that fires later than this shows that the gateway was busy, not the worker."""

NEVER = float("-inf")


class PhaseTimer:
    """Base class for receivers: calls `timed_out` if the worker sends nothing for too long.

    A new phase and each read only store the time. When the timer fires, it compares that time and
    is set again if the phase has time left. A new phase sets it only if it would fire too late.
    """

    __slots__ = ("_due", "_error", "_last", "_loop", "_seconds", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = NEVER
        self._timer: asyncio.TimerHandle | None = None

    @property
    def last(self) -> float:
        """The loop's time at the latest read, or at the beginning of the phase; -inf: none yet."""
        return self._last

    def timed_out(self, error: GatewayError) -> None:
        """Handle the timeout of the current phase; raises `error` by default."""
        raise error

    def enter(self, seconds: float | None, error: Callable[[float], GatewayError]) -> None:
        """Begin a phase that ends with `error(seconds)` if no read occurs for `seconds`.

        None: no timeout. The subclass sets `_last` to the loop's time at each read.
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
        elif now - self._due > MAX_TIMER_DELAY:
            self._set(
                MAX_TIMER_DELAY
            )  # the loop was blocked and has not read the data that arrived since
        else:
            self.timed_out(self._error(self._seconds))
