"""Coding agents before the simulator and a real vLLM: what is captured is what a tap heard.

Opt-in like test_agents.py; `VLLM_HOME=DIR pytest -m agents tests/clients/test_agents_engines.py`
runs them before a vLLM, too.
"""

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from accounting.tap import Served, Tap
from support.agents.agents import AGENTS, MODEL, Agent
from support.agents.closed import Ended
from support.agents.leading import Leading
from support.agents.stage import (
    TRANSLATE,
    assert_worked,
    opt_in,
    played,
    sessions_of,
    steps_of,
    traces_of,
)
from support.gateways.capturing import CAPTURE
from trace_capture.tapped.asks import Ask
from trace_capture.tapped.engine import vllm
from trace_capture.tapped.told import Sample, told

from gateway import Trace
from gateway.config import StorageSettings
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, entry

HOME = os.environ.get("VLLM_HOME", "")
CHAT = "/v1/chat/completions"
LONGEST = 260_000
"""Tokens of the context: the tiny tokenizer makes up to 42,000 of what agents send, and they ask
for tens of thousands more."""

COMMANDS = 2
"""That the agent is led to run."""

PATIENCE = 900.0
GRAMMARS = {"backend": "xgrammar", "disable_any_whitespace": True}
VLLM_ARGUMENTS = (
    *("--served-model-name", MODEL, "--max-model-len", str(LONGEST)),
    *("--hf-overrides", json.dumps({"max_position_embeddings": LONGEST})),
    *("--kv-cache-memory-bytes", str(512 << 20), "--max-num-seqs", "4"),
    *("--structured-outputs-config", json.dumps(GRAMMARS)),
)

pytestmark = [*opt_in, pytest.mark.timeout(2 * PATIENCE)]
each_agent = pytest.mark.parametrize(
    "name", [name for name, agent in AGENTS.items() if agent.ends_by is None]
)
"""Without the one that ends by a command: a forced call has no text beside it."""


class Conversation(msgspec.Struct, frozen=True):
    """How the agent ended, what was recorded, and what the tap between gateway and engine heard."""

    ended: Ended
    traces: list[Trace]
    pages: list[Served]


@each_agent
async def test_agent_before_the_simulator(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    async with Simulator(SimulatorConfig(max_model_len=1 << 20, scale_out=True)) as simulator:
        held = await converse(gateway_for, tmp_path, AGENTS[name], simulator.port)
    assert_captured(held, AGENTS[name], tmp_path)


@pytest.mark.vllm
@pytest.mark.skipif(not HOME, reason="VLLM_HOME does not name a folder with a vLLM")
@each_agent
async def test_agent_before_vllm(gateway_for: GatewayFor, tmp_path: Path, name: str) -> None:
    async with vllm(Path(HOME), tmp_path) as engine:
        await engine.start(Path(HOME, "model"), *VLLM_ARGUMENTS)
        held = await converse(gateway_for, tmp_path, AGENTS[name], engine.port)
    assert_captured(held, AGENTS[name], tmp_path)


async def converse(gateway_for: GatewayFor, folder: Path, agent: Agent, port: int) -> Conversation:
    """The agent's whole conversation with the engine at `port` of this machine."""
    storage = StorageSettings(path=str(folder / "traces.db"))
    leading = entry(Leading, steps=msgspec.to_builtins(steps_of(agent)))
    async with tap_before(port) as tap:
        plugins = (sessions_of(agent), entry(TRANSLATE), leading, CAPTURE)
        live = await gateway_for(*plugins, workers=[tap.url], storage=storage)
        ended = await played(agent, live.url, folder, PATIENCE)
        return Conversation(ended, await traces_of(live), tap.served)


@asynccontextmanager
async def tap_before(port: int) -> AsyncIterator[Tap]:
    tap = Tap("engine", port, keeps=True)
    await tap.start()
    try:
        yield tap
    finally:
        tap.kill()


def assert_captured(held: Conversation, agent: Agent, folder: Path) -> None:
    chats = [page for page in held.pages if page.path == CHAT]
    asked = [msgspec.json.decode(page.asked) for page in chats]
    assert_worked(held.ended, folder)
    # Not what they say: qwen-code loses the output of a fast command at times.
    assert [message["role"] for message in asked[-1]["messages"]].count("tool") == COMMANDS
    assert {(trace.verdict, *trace.reasons) for trace in held.traces} == {("COMPLETE",)}
    assert {one.translated_from or one.dialect for one in held.traces} == {agent.dialect}
    assert recorded(held.traces) == heard(chats)


def recorded(traces: Iterable[Trace]) -> dict[str, Sample]:
    """The sample of each call."""
    return {one.call_id: _sample(one) for one in traces}


def _sample(trace: Trace) -> Sample:
    logprobs = list(trace.logprobs or ())
    return Sample(trace.prompt_token_ids, trace.completion_token_ids, logprobs, trace.finish_reason)


def heard(pages: Iterable[Served]) -> dict[str, Sample]:
    """The same from the tap."""
    samples = {}
    for page in pages:
        ask = Ask(call_id=page.call_id, session_id="", api="chat", path=CHAT, body={})
        found = told(page, ask)
        assert found.is_whole(ask), found
        samples[page.call_id] = found.samples[0]
    return samples
