"""Ends a call from outside its task."""

import asyncio

from gateway.errors import GatewayError, TotalTimeout


class Lifeline:
    """Ends a call from outside its task, by raising a given reason inside the task."""

    __slots__ = ("_held", "_over", "_reason", "_task", "_timer")

    def __init__(self) -> None:
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._reason: GatewayError | None = None
        self._over = False

    def cut(self, reason: GatewayError) -> None:
        """Raise `reason` from the `with` block at its next wait; the first reason counts."""
        if self._over or self._reason is not None:
            return
        self._reason = reason
        task = self._task
        if task is not None and task is not asyncio.current_task() and not self._held:
            task.cancel()

    def hold(self) -> None:
        """Protect the work from here until `let_go`: a cut takes effect only then."""
        self._held = True

    def let_go(self) -> None:
        """End the protection. Raises the reason of a cut that came in between."""
        self._held = False
        if self._reason is not None:
            raise self._reason

    def limit(self, seconds: float) -> None:
        """End the call with TotalTimeout if it is not over after `seconds`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, lambda: self.cut(TotalTimeout(seconds)))

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._reason is not None:
            self._over = True
            raise self._reason

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._reason is None or self._task is None:
            return
        self._task.uncancel()
        if kind is None or kind is asyncio.CancelledError:
            raise self._reason from None
