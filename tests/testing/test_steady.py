"""The helpers for short times tell a loop that stood still from a gateway that is slow."""

import asyncio
import time

import pytest
from support import steady


async def test_a_failure_counts_unless_the_loop_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds: list[int] = []

    @steady.steady
    async def fails_at_first() -> None:
        rounds.append(len(rounds))
        time.sleep(0.1)  # noqa: ASYNC251  the loop stands still
        pytest.fail("as it does") if len(rounds) < 2 else None

    await fails_at_first()
    assert rounds == [0, 1]
    monkeypatch.setattr(steady, "LATE", 1e9)
    rounds.clear()
    with pytest.raises(pytest.fail.Exception, match="as it does"):
        await fails_at_first()
    assert rounds == [0]


async def test_a_failure_counts_while_the_loop_computes() -> None:
    rounds: list[int] = []

    @steady.steady
    async def is_slow() -> None:
        rounds.append(len(rounds))
        began = time.thread_time()
        while time.thread_time() - began < 0.1:  # as code that keeps the loop busy
            pass
        pytest.fail("as it does")

    with pytest.raises(pytest.fail.Exception):
        await is_slow()
    assert len(rounds) < steady.ROUNDS


async def test_steps_of_the_loop_are_counted_and_not_its_pauses() -> None:
    async with steady.at_once():
        time.sleep(0.3)  # noqa: ASYNC251  the loop stands still
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with steady.at_once():
            await asyncio.Event().wait()
