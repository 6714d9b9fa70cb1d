"""Answers of calls that are carried as token ids are those of chat, for all that callers ask."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from support.gateways.capturing import capturing
from support.tito.agents import reworded, traces_of, with_tito
from support.tito.answers import events, normal, said

from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live

TRANSLATE = "gateway_plugins.translate:Translate"

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest_asyncio.fixture
async def simulator(thinks: bool) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(scale_out=True, reasoning=thinks)) as running:
        yield running


@pytest.fixture
def thinks() -> bool:
    return False


async def ask(live: Live, session: str, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    asked = {"model": "sim", "messages": messages, "max_tokens": 16, "seed": 3, **fields}
    answer = await live.client.post(f"/sessions/{session}/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    return answer


ASKED: dict[str, dict[str, Any]] = {
    "text": {},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "logprobs without others": {"logprobs": True},
    "ids": {"return_token_ids": True},
    "several": {"n": 2},
    "usage": {"stream_options": {"include_usage": True}},
    "running usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "stop": {"stop": ["an", "e q"], "max_tokens": 60},
    "length": {"max_tokens": 2},
    "tools": {"tools": [TOOL], "max_tokens": 60},
    "required": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
    "no tools": {"tools": [TOOL], "tool_choice": "none"},
}


def cases(*, streamed: bool) -> list[str]:
    return [name for name in ASKED if streamed or "usage" not in name]


@pytest.mark.parametrize("name", cases(streamed=False))
async def test_a_plain_answer_is_that_of_chat(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await with_tito(live, "s")
    ours = await ask(live, "s", **ASKED[name])
    theirs = await ask(live, "other", **ASKED[name])
    assert normal(ours.json()) == normal(theirs.json())
    [trace] = await traces_of(live, "s")
    assert (trace.verdict, trace.dialect) == ("COMPLETE", "generate")


@pytest.mark.parametrize("name", cases(streamed=True))
async def test_a_stream_says_what_that_of_chat_says(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await with_tito(live, "s")
    ours = events(await ask(live, "s", stream=True, **ASKED[name]))
    theirs = events(await ask(live, "other", stream=True, **ASKED[name]))
    assert said(ours) == said(theirs)
    assert ours[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    [trace] = await traces_of(live, "s")
    assert (trace.verdict, trace.dialect) == ("COMPLETE", "generate")


@BOTH
@pytest.mark.parametrize("thinks", [True])
async def test_reasoning_is_told_from_the_answer(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await with_tito(live, "s")
    ours = await ask(live, "s", stream=stream, max_tokens=60)
    theirs = await ask(live, "other", stream=stream, max_tokens=60)
    if stream:
        assert said(events(ours)) == said(events(theirs))
        assert said(events(ours))[0]["reasoning"]
    else:  # generate does not count the tokens of the reasoning
        assert normal(ours.json()["choices"]) == normal(theirs.json()["choices"])


@BOTH
async def test_a_conversation_with_tools_keeps_the_sampled_ids(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path)
    agent = await with_tito(live, "s", max_tokens=80, tools=[TOOL], allowed_token_ids=None)
    for turn in range(3):
        await agent.work(f"turn {turn}", stream=stream, seed=turn)
    traces = await traces_of(live, "s")
    assert len(traces) > 3  # tools were called
    assert [one.verdict for one in traces] == ["COMPLETE"] * len(traces)
    assert reworded(traces) == 0
    assert {one.metadata["tito"]["prompt"] for one in traces[1:]} == {"continued"}


@BOTH
async def test_messages_are_carried_as_token_ids(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    await with_tito(live, "s")
    messages: list[dict[str, Any]] = []
    for turn in range(3):
        messages.append({"role": "user", "content": f"turn {turn}"})
        asked = {"model": "sim", "max_tokens": 12, "messages": messages, "stream": stream}
        answer = await live.client.post("/sessions/s/v1/messages", json=asked)
        assert answer.status_code == 200, answer.text
        text = message_text(answer) if stream else answer.json()["content"][0]["text"]
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
    traces = await traces_of(live, "s")
    assert [one.verdict for one in traces] == ["COMPLETE"] * 3
    assert {(one.dialect, one.translated_from) for one in traces} == {("generate", "messages")}
    assert [one.metadata["tito"]["prompt"] for one in traces] == [
        "rendered",
        "continued",
        "continued",
    ]
    assert reworded(traces) == 0


def message_text(answer: httpx.Response) -> str:
    assert answer.text.rstrip().endswith('{"type":"message_stop"}'), answer.text
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    deltas = [event["delta"] for event in map(json.loads, lines) if "delta" in event]
    return "".join(delta.get("text", "") for delta in deltas)


@BOTH
async def test_responses_are_carried_as_token_ids(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    await with_tito(live, "s")
    items: list[dict[str, Any]] = []
    for turn in range(3):
        items.append({"role": "user", "content": f"turn {turn}"})
        asked = {"model": "sim", "max_output_tokens": 12, "input": items, "stream": stream}
        answer = await live.client.post("/sessions/s/v1/responses", json=asked)
        assert answer.status_code == 200, answer.text
        items += response_of(answer, stream=stream)["output"]
    traces = await traces_of(live, "s")
    assert [one.verdict for one in traces] == ["COMPLETE"] * 3
    assert {(one.dialect, one.translated_from) for one in traces} == {("generate", "responses")}
    assert reworded(traces) == 0
    assert [one.metadata["tito"]["prompt"] for one in traces][1:] == ["continued"] * 2


def response_of(answer: httpx.Response, *, stream: bool) -> dict[str, Any]:
    if not stream:
        found: dict[str, Any] = answer.json()
        return found
    last = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")][-1]
    done: dict[str, Any] = json.loads(last)["response"]
    return done
