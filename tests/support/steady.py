"""Short times, for tests in one event loop, on machines that stand still now and then.

A machine with much to do may stop a process for seconds. Times that have run out meanwhile say
nothing of the gateway; those of a loop that runs say something.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec

import pytest

P = ParamSpec("P")
Test = Coroutine[Any, Any, None]

ROUNDS = 6
STEP = 0.005
LATE = 0.03
"""Seconds by which a step is late if the machine lets the loop stand still. Those in which the loop
computes do not count: a gateway that keeps the loop busy is slow."""


@contextlib.asynccontextmanager
async def _watched() -> AsyncIterator[list[float]]:
    """Tell by how much steps of the loop were too late while the block ran."""
    loop, late = asyncio.get_running_loop(), []

    async def watch() -> None:
        while True:
            began, computed = loop.time(), time.thread_time()
            await asyncio.sleep(STEP)
            stood = loop.time() - began - (time.thread_time() - computed)
            if stood > STEP + LATE:
                late.append(stood)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield late
        await asyncio.sleep(2 * STEP)  # the latest step may not have ended
    finally:
        watching.cancel()


def steady(test: Callable[P, Test]) -> Callable[P, Test]:
    """Repeat a test that fails while its loop stands still; a test that fails otherwise fails.

    A further round gets a `tmp_path` of its own, and the test's other fixtures as they are.
    """

    @functools.wraps(test)
    async def rounds(*args: P.args, **kwargs: P.kwargs) -> None:
        for left in reversed(range(ROUNDS)):
            found: BaseException | None = None
            async with _watched() as late:
                try:
                    await test(*args, **_own_folder(kwargs, left))  # type: ignore[arg-type]
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  raised below
                    found = error
            if found is None:
                return
            if not (left and late):
                raise found

    return rounds


def _own_folder(kwargs: dict[str, object], left: int) -> dict[str, object]:
    path = kwargs.get("tmp_path")
    if not isinstance(path, Path):
        return kwargs
    own = path / str(left)
    own.mkdir()
    return {**kwargs, "tmp_path": own}


@contextlib.asynccontextmanager
async def at_once(steps: int = 20) -> AsyncIterator[None]:
    """Let the block last so many steps of the loop. Raises TimeoutError.

    A step is 5 ms, and longer if the loop stands still: 0.1 s while it runs.
    """
    async with asyncio.timeout(None) as timeout:

        async def count() -> None:
            for _ in range(steps):
                await asyncio.sleep(STEP)
            timeout.reschedule(asyncio.get_running_loop().time())

        counting = asyncio.create_task(count())
        try:
            yield
        finally:
            counting.cancel()
