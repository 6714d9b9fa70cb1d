"""Recorded failures are replayed, too, and so are calls that were carried as chat."""

from pathlib import Path

import httpx
import openai
import pytest
from support.agents.scripted_model import Fault, ScriptedModel
from support.agents.tool_agent import CAPTURE, REPLAY, STEPS, ToolAgent, exported, traces_of

from gateway import Trace
from gateway.testing import GatewayFor, Live, ScriptedWorker, entry

TRANSLATE = "gateway_plugins.translate:Translate"
CHAT = "/sessions/{}/v1/chat/completions"
RECORDED = ("sessions", entry(TRANSLATE), entry(CAPTURE, wire_responses=True))


async def offline(gateway_for: GatewayFor, path: Path) -> Live:
    return await gateway_for(*RECORDED, entry(REPLAY, path=str(path)), workers=[])


async def worked(live: Live, session_id: str) -> tuple[ToolAgent, str]:
    """An agent, and how its work ended."""
    agent = ToolAgent(f"{live.url}/sessions/{session_id}")
    try:
        await agent.work()
    except (openai.APIError, httpx.HTTPError, ValueError) as error:
        return agent, type(error).__name__
    return agent, ""


SLOW: tuple[Fault, ...] = ("too long", "error event", "aborted")


@pytest.mark.parametrize(
    "fault", ["cut", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
async def test_recorded_failure_fails_again(
    gateway_for: GatewayFor, tmp_path: Path, fault: Fault
) -> None:
    model = ScriptedModel(STEPS, faults={2: fault})
    async with ScriptedWorker(model.script) as worker:
        live = await gateway_for(*RECORDED, workers=[worker.url])
        first, end = await worked(live, "first")
        recorded = await exported(live, tmp_path / "run.jsonl")
    replaying = await offline(gateway_for, tmp_path / "run.jsonl")
    again, ended = await worked(replaying, "again")
    assert (again.heard, ended) == (first.heard, end)
    traces = await traces_of(replaying, "again")
    assert verdicts(traces) == verdicts(recorded)
    assert [one.choices for one in traces] == [one.choices for one in recorded]


async def test_repeated_call_gets_the_recorded_answers_one_after_another(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    body = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}
    model = ScriptedModel(STEPS, faults={1: "limited"})
    async with ScriptedWorker(model.script) as worker:
        live = await gateway_for(*RECORDED, workers=[worker.url])
        first = [await live.client.post(CHAT.format("first"), json=body) for _ in range(2)]
        await exported(live, tmp_path / "run.jsonl")
    replaying = await offline(gateway_for, tmp_path / "run.jsonl")
    again = [await replaying.client.post(CHAT.format("again"), json=body) for _ in range(2)]
    assert [one.status_code for one in again] == [429, 200]
    assert [one.content for one in again] == [one.content for one in first]
    assert again[0].headers["retry-after"] == first[0].headers["retry-after"] == "1"


def verdicts(traces: list[Trace]) -> list[tuple[str, list[str]]]:
    return [(trace.verdict, [*trace.reasons]) for trace in traces]


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_are_replayed_with_the_same_bytes(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    body = {
        "model": "sim",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": stream,
    }
    live = await gateway_for(*RECORDED)
    first = await live.client.post("/sessions/first/v1/messages", json=body)
    [recorded] = await exported(live, tmp_path / "run.jsonl")
    assert recorded.translated_from == "messages"
    replaying = await offline(gateway_for, tmp_path / "run.jsonl")
    again = await replaying.client.post("/sessions/again/v1/messages", json=body)
    assert again.content == first.content
    [trace] = await traces_of(replaying, "again")
    assert (trace.verdict, trace.choices) == ("COMPLETE", recorded.choices)


@pytest.mark.slow
async def test_responses_are_replayed_with_the_same_tokens(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """The translator gives each item an id of its own."""
    body = {"model": "sim", "input": "Hello", "max_output_tokens": 20, "stream": True}
    live = await gateway_for(*RECORDED)
    first = await live.client.post("/sessions/first/v1/responses", json=body)
    [recorded] = await exported(live, tmp_path / "run.jsonl")
    replaying = await offline(gateway_for, tmp_path / "run.jsonl")
    again = await replaying.client.post("/sessions/again/v1/responses", json=body)
    assert [line for line in again.text.splitlines() if line.startswith("event:")] == [
        line for line in first.text.splitlines() if line.startswith("event:")
    ]
    [trace] = await traces_of(replaying, "again")
    assert (trace.verdict, trace.choices) == ("COMPLETE", recorded.choices)


async def test_calls_that_no_worker_answered_are_no_steps(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    model = ScriptedModel(STEPS)
    async with ScriptedWorker(model.script) as worker:
        live = await gateway_for(*RECORDED, workers=[worker.url])
        first = ToolAgent(f"{live.url}/sessions/first")
        await first.work()
    recorded = await exported(live, tmp_path / "run.jsonl")
    answer = await live.client.post(CHAT.format("first"), json=recorded[0].raw_request)
    assert answer.status_code in (502, 503)
    everything = await exported(live, tmp_path / "run.jsonl")
    assert (len(everything), everything[-1].wire_response) == (4, None)
    replaying = await offline(gateway_for, tmp_path / "run.jsonl")
    again = ToolAgent(f"{replaying.url}/sessions/again")
    await again.work()
    assert again.heard == first.heard
