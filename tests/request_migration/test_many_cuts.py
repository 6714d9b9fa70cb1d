"""500 streams of the simulator are cut anywhere, and processes of it are killed in mid-stream.

Run with `-m slow`.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from request_migration.test_cuts import ASKED, MIGRATION, TOKENS, Stage, body, events_of, text_of
from support.gateways.capturing import capturing
from support.gateways.serving_process import Process, started
from support.ports import free_port
from support.tito.agents import traces_of
from support.workers.cut_worker import CutWorker
from support.workers.failing_worker import InOrder

from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CUTS, KILLS = 500, 10


def fields(api: str, chance: random.Random) -> dict[str, Any]:
    """Return a prompt of its own for each call."""
    if api == "completions":
        return {"prompt": [chance.randrange(40, 900) for _ in range(4)]}
    if api == "chat":
        return {"messages": [{"role": "user", "content": f"Tell me of {chance.random()}"}]}
    return {"token_ids": [chance.randrange(40, 900) for _ in range(4)]}


async def test_500_cuts_leave_the_text_and_the_ids_as_they_are(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    chance, kinds = random.Random(1), list(ASKED)
    async with Simulator(SimulatorConfig(scale_out=True)) as engine, CutWorker(engine) as cut:
        workers = [cut.url, engine.url]
        live = await capturing(gateway_for, tmp_path, MIGRATION, InOrder, workers=workers)
        stage = Stage(live, cut)
        for number in range(CUTS):
            api = kinds[number % len(kinds)]
            asked = fields(api, chance)
            text, whole = await stage.stream(api, 1 << 30, **asked)
            said, at = text_of(events_of(text)), chance.randrange(len(cut.whole))
            text, trace = await stage.stream(api, at, **asked)
            assert text_of(events_of(text)) == said, (api, at)
            assert trace.completion_token_ids == whole.completion_token_ids
            assert trace.verdict == whole.verdict == "COMPLETE"


@asynccontextmanager
async def simulating(port: int) -> AsyncIterator[Process]:
    """A simulator in a process of its own, slow enough to be killed in mid-stream."""
    arguments = ("simulate", "--port", str(port), "--itl", "0.02", "--enable-scale-out")
    async with started(*arguments, environment={}) as process:
        yield process


async def _ready(live: Live, port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await live.client.get(f"http://127.0.0.1:{port}/health")
            except Exception:  # noqa: BLE001  it does not listen yet
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_simulator_that_is_killed_in_mid_stream_is_outlived(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    chance, kinds = random.Random(2), list(ASKED)
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    live = await capturing(gateway_for, tmp_path, MIGRATION, InOrder, workers=urls)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(simulating(ports[1]))
        await _ready(live, ports[1])
        for number in range(KILLS):
            api = kinds[number % len(kinds)]
            async with simulating(ports[0]) as victim:
                await _ready(live, ports[0])
                whole = await _streamed(live, f"whole-{number}", api)
                killed = chance.randrange(1, TOKENS // 2)
                text = await _streamed(live, f"s{number}", api, victim, killed)
            assert text_of(events_of(text)) == text_of(events_of(whole))
            trace = (await traces_of(live, f"s{number}"))[0]
            assert trace.verdict == "COMPLETE", (trace.reasons, trace.metadata)
            assert len(trace.attempts) == 2


async def _streamed(
    live: Live, session: str, api: str, victim: Process | None = None, after: int = 0
) -> str:
    """Return a stream; kill the process that sends it after so many events."""
    text = ""
    path = f"/sessions/{session}{ASKED[api][0]}"
    async with live.client.stream("POST", path, json=body(api)) as answer:
        async for part in answer.aiter_text():
            text += part
            if victim is not None and text.count("\n\n") >= after:
                victim.kill(signal.SIGKILL)
                victim = None
    return text
