"""The timeouts of the phases of attempts, many of which share one timer."""

import asyncio
from collections.abc import Callable

from gateway.errors import GatewayError

MAX_TIMER_DELAY = 0.05
"""Seconds; a timer that fires later than this shows that the gateway was busy, not the worker."""

NEVER = float("-inf")
NOT_SET = float("inf")


class Alarm:
    """One timer for the phases of many PhaseTimers, which fires when the first may be over.

    Most phases end long before their timeout. So the timer stays set when they do, and a new phase
    sets the timer anew only if the present one would fire too late.
    """

    __slots__ = ("_due", "_timer", "_watched")

    def __init__(self) -> None:
        self._watched: set[PhaseTimer] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = NOT_SET

    def stop(self) -> None:
        """Cancel the timer, until another phase begins."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = NOT_SET

    def set(self, due: float, loop: asyncio.AbstractEventLoop) -> None:
        self.stop()
        self._due = due
        self._timer = loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the phases that are over, and set the timer for the next one."""
        now = loop.time()
        busy = now - self._due > MAX_TIMER_DELAY  # it may not have read the data that arrived since
        over = [] if busy else [phase for phase in self._watched if phase.ends <= now]
        ends = min((one.ends for one in self._watched.difference(over)), default=NOT_SET)
        self.stop()
        if ends != NOT_SET:
            self.set(max(ends, now + MAX_TIMER_DELAY) if busy else ends, loop)
        for phase in over:
            phase.end()


class PhaseTimer:
    """Base class for receivers: calls `timed_out` if the worker sends nothing for too long.

    A new phase and each read only store the time, which the `alarm` compares when it fires.
    """

    __slots__ = ("_alarm", "_error", "_last", "_loop", "_seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, alarm: Alarm) -> None:
        self._loop = loop
        self._alarm = alarm
        self._last = NEVER

    @property
    def last(self) -> float:
        """The loop's time at the latest read, or at the beginning of the phase; -inf: none yet."""
        return self._last

    @property
    def ends(self) -> float:
        """The loop's time when the phase is over, unless a read comes first."""
        return NOT_SET if self._seconds is None else self.last + self._seconds

    def timed_out(self, error: GatewayError) -> None:
        """Handle the timeout of the current phase; raises `error` by default."""
        raise error

    def enter(self, seconds: float | None, error: Callable[[float], GatewayError]) -> None:
        """Begin a phase that ends with `error(seconds)` if no read occurs for `seconds`.

        None: no timeout. The subclass sets `_last` to the loop's time at each read.
        """
        self._seconds = seconds
        self._error = error
        self._last = now = self._loop.time()
        if seconds is not None:
            alarm = self._alarm
            alarm._watched.add(self)
            if now + seconds < alarm._due:
                alarm.set(now + seconds, self._loop)

    def leave(self) -> None:
        self._alarm._watched.discard(self)

    def end(self) -> None:
        self.timed_out(self._error(self._seconds or 0))
