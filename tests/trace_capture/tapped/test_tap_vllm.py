"""Traces of a real vLLM are what a tap between it and the gateway heard.

Opt-in: `VLLM_HOME=DIR TAP_CALLS=2000 TAP_SEED=1 pytest -m vllm tests/trace_capture/tapped -n 0`.
The engine dies twice in the middle, and comes back with a reasoning parser, then with none.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from trace_capture.tapped.conduct import CALLERS, books_of, tapped
from trace_capture.tapped.engine import VLLM, thinking_model, vllm
from trace_capture.tapped.load import Load

HOME = os.environ.get("VLLM_HOME", "")
MODEL = Path(HOME, "model")
CALLS, SEED = int(os.environ.get("TAP_CALLS", "200")), int(os.environ.get("TAP_SEED", "1"))

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not HOME, reason="VLLM_HOME does not name a folder with a vLLM"),
    pytest.mark.timeout(600 + 5 * CALLS),
]

REASONING = ("--reasoning-parser", "deepseek_r1")


async def kill_twice(engine: VLLM, load: Load, folder: Path) -> None:
    """At a third of the calls its core alone, at two thirds all of it."""
    thinking = thinking_model(MODEL, folder)
    for third, more in ((1, (thinking, *REASONING)), (2, (MODEL,))):
        while len(load.made) < third * CALLS // 3:  # noqa: ASYNC110  calls have no event
            await asyncio.sleep(0.01)
        load.doom()
        await engine.kill(core=third == 1)
        await engine.start(*more)
        load.up.set()


async def test_every_trace_of_vllm_is_what_a_tap_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with vllm(Path(HOME), tmp_path) as engine:
        await engine.start(MODEL)
        async with tapped(engine.port, tmp_path, "tiny", SEED) as (tap, load):
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run(CALLS, CALLERS, engine.abort))
                group.create_task(kill_twice(engine, load, tmp_path))
        books = books_of(tmp_path, tap, load)
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(f"{api}: {row}" for api, row in books.rows.items()))
    (tmp_path / "problems.txt").write_text("\n".join(books.problems), encoding="utf-8")
    assert not books.problems, f"{len(books.problems)} problems, all in {tmp_path}/problems.txt"
    assert sum(row.complete for row in books.rows.values()) > CALLS / 3
