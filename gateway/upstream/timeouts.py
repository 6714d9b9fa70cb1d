"""One timer for all phases of an attempt."""

import asyncio
from collections.abc import Callable

from gateway.errors import GatewayError


class Patience:
    """Calls `on_timeout` when nothing was heard for as long as the present phase allows.

    A phase and each read only note the time. The timer looks at it when it fires, and goes off
    again later if need be; it is set anew only where it would come too late.
    """

    __slots__ = ("_due", "_error", "_last", "_loop", "_on_timeout", "_seconds", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_timeout: Callable[[GatewayError], None]
    ) -> None:
        self._loop = loop
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, seconds: float | None, error: Callable[[float], GatewayError]) -> None:
        """Begin a phase: after `seconds` without a `touch` it ends with `error(seconds)`.

        With None it never does.
        """
        self._seconds = seconds
        self._error = error
        self._last = self._loop.time()
        if seconds is not None and (self._timer is None or self._due > self._last + seconds):
            self._set(seconds)

    def touch(self) -> None:
        self._last = self._loop.time()

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
        left = self._last + self._seconds - self._loop.time()
        if left > 0:
            self._set(left)
        else:
            self._on_timeout(self._error(self._seconds))
