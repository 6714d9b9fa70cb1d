"""Ends a call from outside its task."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from gateway.errors import CallerGone, GatewayError, TotalTimeout

LEFT = "the caller left"
"""Text of the CallerGone of a call whose caller closed its connection while it ran."""

MAX_LINGER = 2.0
"""Seconds that a worker has for the rest of a response whose caller has all that it wanted."""


class NoWait:
    """What is awaited if nothing is left to wait for."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


NO_WAIT = NoWait()


class CancelScope:
    """Ends a call from outside its task, by raising a given reason inside the task.

    If the caller leaves and `has_all` says that it had all that it asked for, the call goes on for
    at most MAX_LINGER seconds, so that the usage and the end of the stream arrive: many callers
    leave at the last finish reason. Else `goes_on`, if given, says whether the call goes on without
    a caller. `caller_left`: the caller has left, and the call does not go on for another one.
    """

    __slots__ = (
        "_lingering",
        "_over",
        "_reason",
        "_shielded",
        "_task",
        "_timer",
        "caller_left",
        "goes_on",
        "has_all",
    )

    def __init__(self) -> None:
        self._shielded = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._reason: GatewayError | None = None
        self._over = False
        self._lingering: asyncio.TimerHandle | None = None
        self.has_all: Callable[[], bool] | None = None
        self.goes_on: Callable[[], bool] | None = None
        self.caller_left = False

    def cancel(self, reason: GatewayError) -> None:
        """Raise `reason` from the `with` block at its next wait; the first reason counts."""
        if self._over or self._reason is not None:
            return
        if isinstance(reason, CallerGone):
            if self.caller_left:
                return
            has_all = self.has_all is not None and self.has_all()
            if not has_all and self.goes_on is not None and self.goes_on():
                return
            self.caller_left = True
            if has_all:
                loop = asyncio.get_running_loop()
                self._lingering = loop.call_later(MAX_LINGER, self._end, reason)
                return
        self._end(reason)

    def _end(self, reason: GatewayError) -> None:
        if self._over or self._reason is not None:
            return
        self._reason = reason
        task = self._task
        if task is not None and task is not asyncio.current_task() and not self._shielded:
            task.cancel()

    def shield(self) -> None:
        """Protect the work from here until `unshield`: a cancellation takes effect only then."""
        self._shielded = True

    def unshield(self) -> None:
        """End the protection. Raises the reason of a cancellation that came in between."""
        self._shielded = False
        if self._reason is not None:
            raise self._reason

    async def shielded(self, rest: Awaitable[None]) -> None:
        """Await `rest` even if the call is cancelled meanwhile. Raises the reason afterwards."""
        self.shield()
        try:
            await rest
        finally:
            self.unshield()

    def limit(self, seconds: float) -> None:
        """End the call with TotalTimeout if it is not over after `seconds`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, lambda: self.cancel(TotalTimeout(seconds)))

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._reason is not None:
            self._over = True
            raise self._reason

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = True
        for timer in (self._timer, self._lingering):
            if timer is not None:
                timer.cancel()
        if self._reason is None or self._task is None:
            return
        self._task.uncancel()
        if kind is None or kind is asyncio.CancelledError:
            raise self._reason from None
