"""The time that a caller's connection may be quiet, with a timer that is seldom touched."""

import asyncio
from collections.abc import Callable


class QuietTimer:
    """Calls `over` at the end of a time in which nothing came.

    The time runs from `since` to `ends`, by the loop's clock; `ends` is None while no time runs.
    The loop's timer stays set when a time ends early, and looks at `ends` when it fires.
    """

    __slots__ = ("_loop", "_over", "_timer", "ends", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> None:
        self._loop = loop
        self._over = over
        self._timer: asyncio.TimerHandle | None = None
        self.since = 0.0
        self.ends: float | None = None

    def begin(self, seconds: float) -> None:
        self.since = now = self._loop.time()
        self.ends = ends = now + seconds
        if self._timer is None or self._timer.when() > ends:
            self._set(ends)

    def stop(self) -> None:
        """End for good."""
        self.ends = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, ends: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(ends, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.ends is None:
            return
        if self._loop.time() < self.ends:
            self._set(self.ends)
        else:
            self.ends = None
            self._over()
