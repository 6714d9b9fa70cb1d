"""A loop of the kind that serves, kept over many examples: for tests that are plain functions."""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")

PATIENCE = 40.0
"""Seconds after which what runs is taken to hang."""


class Stage:
    """Runs coroutines one after the other; what it has entered stays until its block ends."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stack = AsyncExitStack()
        return self

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Raises TimeoutError where it hangs."""
        return self._runner.run(_bounded(coroutine))

    def enter(self, manager: AbstractAsyncContextManager[T]) -> T:
        return self.run(self._stack.enter_async_context(manager))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self._stack.aclose())
        self._runner.close()


async def _bounded(coroutine: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(PATIENCE):
        return await coroutine
