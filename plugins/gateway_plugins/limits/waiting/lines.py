"""A line of waiting calls for each key that has reached its number of concurrent calls.

The first call in a line tries again whenever a call of its key has ended in this process. The end
of a call in another process is not reported, so that with several processes the first call also
tries at intervals.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from gateway_plugins.limits.refusing import CONCURRENT, LimitReached, too_many_at_once

T = TypeVar("T")

POLL_INTERVAL = 0.1
"""Seconds between two tries of the first call in a line, if several processes share the limits."""


class Patience(NamedTuple):
    """At most `calls` of a key wait, each for at most `seconds`, while `limit` others run."""

    calls: int
    seconds: float
    limit: int

    def part_of(self, index: int, count: int) -> "Patience":
        """Return the share of one of `count` processes: at least one call."""
        share = self.calls // count + (index < self.calls % count)
        return self._replace(calls=max(share, 1))


class Lines:
    """The lines of one process, `there` by their keys; `count` processes share the limits."""

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self._place = index, count
        self.there: dict[str, deque[asyncio.Event]] = {}

    def __len__(self) -> int:
        """Number of calls that wait."""
        return sum(map(len, self.there.values()))

    def freed(self, key: str) -> None:
        """Let the first call of the key try again, as one of its calls has ended."""
        if key in self.there:
            self.there[key][0].set()

    def look_again(self) -> None:
        """Let the first call of each key try again, as the limits have changed."""
        for line in self.there.values():
            line[0].set()

    async def enter(self, key: str, patience: Patience, attempt: Callable[[], T]) -> T:
        """Return the result of `attempt` once it raises no LimitReached for concurrent calls.

        No call overtakes another one of its key that waits already. Raises LimitReached if the line
        is full, if the call has waited for too long, or if `attempt` raises it for another limit.
        """
        line = self.there.get(key, ())
        if not line:
            try:
                return attempt()
            except LimitReached as refusal:
                if refusal.name != CONCURRENT:
                    raise
        patience = patience.part_of(*self._place)
        if len(line) >= patience.calls:
            raise too_many_at_once(patience.limit)
        return await self._wait(key, patience, attempt)

    async def _wait(self, key: str, patience: Patience, attempt: Callable[[], T]) -> T:
        woken = asyncio.Event()
        line = self.there.setdefault(key, deque())
        line.append(woken)
        deadline = asyncio.get_running_loop().time() + patience.seconds
        try:
            while True:
                late = await self._sleep(woken, deadline)
                if line[0] is woken:
                    try:
                        return attempt()
                    except LimitReached as refusal:
                        if refusal.name != CONCURRENT or late:
                            raise
                elif late:
                    raise too_many_at_once(patience.limit)
        finally:
            line.remove(woken)
            if line:
                line[0].set()
            else:
                del self.there[key]

    async def _sleep(self, woken: asyncio.Event, deadline: float) -> bool:
        """Wait until it is time to try; return whether the deadline has passed."""
        loop = asyncio.get_running_loop()
        shared = self._place[1] > 1
        until = min(deadline, loop.time() + POLL_INTERVAL) if shared else deadline
        try:
            async with asyncio.timeout_at(until):
                await woken.wait()
        except TimeoutError:
            return loop.time() >= deadline
        woken.clear()
        return False
