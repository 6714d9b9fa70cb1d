"""Sampled ids are in the next prompt: sessions with token-in/token-out before the simulator."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.gateways.capturing import capturing
from support.tito.agents import Agent, reworded

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live

pytestmark = pytest.mark.usefixtures("simulator")


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(scale_out=True)) as running:
        yield running


async def traces_of(live: Live, session_id: str) -> list[Trace]:
    async with AsyncGatewayClient(live.url) as client:
        return await client.query_traces([session_id])


async def with_tito(live: Live, session_id: str, mode: str = "require") -> Agent:
    async with AsyncGatewayClient(live.url) as client:
        await client.create_session(session_id, tito=mode)
    return Agent(live.client, session_id)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_each_prompt_begins_with_the_former_turn(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s")
    for turn in range(4):
        await agent.say(f"turn {turn}", stream=stream, seed=turn)
    traces = await traces_of(live, "s")
    assert [one.verdict for one in traces] == ["COMPLETE"] * 4
    assert {(one.dialect, one.translated_from) for one in traces} == {("generate", "chat")}
    assert reworded(traces) == 0
    assert [one.metadata["tito"]["prompt"] for one in traces] == ["rendered", *["continued"] * 3]
    for one, said in zip(traces, agent.answers, strict=True):
        assert (one.response_message["content"] or "") == said
        assert one.messages[-1]["role"] == "user"
