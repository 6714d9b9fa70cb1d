"""A plugin that keeps what it was told of each call, and a way to wait for what has no event."""

import asyncio
from collections.abc import Callable

from gateway import Attempt, Call, Outcome, hookimpl

PATIENCE = 40.0
"""Seconds after which what a test waits for is taken never to come."""


class Watcher:
    """Keeps the attempts and outcomes of all calls, in the order of their ends."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.outcomes: list[Outcome] = []
        self._told = asyncio.Condition()

    @hookimpl
    async def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        async with self._told:
            self._told.notify_all()

    async def outcome(self) -> Outcome:
        """The latest call's, once there is one."""
        await self.calls(1)
        return self.outcomes[-1]

    async def calls(self, count: int) -> None:
        """Wait until `count` calls are over."""
        async with asyncio.timeout(PATIENCE), self._told:
            await self._told.wait_for(lambda: len(self.outcomes) >= count)


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again until `condition` holds. Raises TimeoutError where it never does."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  for what only the kernel or uvicorn knows
            await asyncio.sleep(0.005)
