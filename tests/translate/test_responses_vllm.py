"""Translated Responses beside those of a real vLLM, event by event, and prompt by prompt.

Opt-in: `VLLM_URL=http://127.0.0.1:8000 pytest -m vllm`. The server needs
`--enable-auto-tool-choice` and, for the prompts, `--enable-scale-out`.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.gateways.capturing import capturing
from support.records.translated.responses import events_of, normal

from gateway import responses_as_chat
from gateway.client import AsyncGatewayClient
from gateway.config import Worker
from gateway.testing import GatewayFor, Live, entry

URL = os.environ.get("VLLM_URL", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not URL, reason="VLLM_URL does not name a running vLLM"),
    pytest.mark.timeout(600),
]

Json = Any

JSON = {"content-type": "application/json"}

LEFT_OPEN = ("temperature", "top_p", "max_output_tokens")
"""Fields of a response that the engine fills in from its model."""

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
GO = {**TOOL, "name": "go"}
SPACE = {"type": "namespace", "name": "maps", "description": "Maps", "tools": [GO]}
FREE = {"type": "custom", "name": "free", "description": "Text"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}

ASKS: dict[str, Json] = {
    "text": {"input": "Hello"},
    "limit": {"input": "Hello", "max_output_tokens": 3},
    "logprobs": {
        "input": "Hello", "include": ["message.output_text.logprobs"], "top_logprobs": 2,
    },
    "stop": {"input": "Hello", "stop": ["e", "a"]},
    "instructions": {"input": [{"role": "user", "content": "Hi"}], "instructions": "Be short."},
    "schema": {
        "input": "Hello",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    },
    "tools": {"input": "Weather?", "tools": [TOOL, SPACE, FREE]},
    "required": {
        "input": "Weather?", "tools": [TOOL], "tool_choice": "required", "max_output_tokens": 200,
    },
    "named": {
        "input": "Weather?", "tools": [TOOL, SPACE], "max_output_tokens": 200,
        "tool_choice": {"type": "function", "name": "go"},
    },
    "free": {
        "input": "Write", "tools": [FREE], "max_output_tokens": 200,
        "tool_choice": {"type": "custom", "name": "free"},
    },
    "effort": {"input": "Hello", "reasoning": {"effort": "low"}},
    "penalties": {"input": "Hello", "presence_penalty": 1.0, "frequency_penalty": 0.5, "seed": 3},
}  # fmt: skip


@pytest.fixture
async def running(gateway_for: GatewayFor, tmp_path: Path) -> Live:
    plugin = entry("gateway_plugins.translate:Translate", responses="always")
    return await capturing(gateway_for, tmp_path, plugin, workers=(Worker(url=URL),))


def asked(name: str, **fields: Json) -> Json:
    return {"model": "tiny", "max_output_tokens": 24, "temperature": 0, **ASKS[name], **fields}


def joined(events: list[Json]) -> list[Json]:
    """`events` with deltas that follow each other in one: how tokens are merged is chance."""
    found: list[Json] = []
    for event in normal(events):
        event.pop("sequence_number")
        last = found[-1] if found else {}
        if "delta" in event and last.get("type") == event["type"]:
            last["delta"] += event["delta"]
            last["logprobs"] = last.get("logprobs", []) + event.get("logprobs", [])
        else:
            found.append(event)
    return found


def same(response: Json) -> Json:
    """`response` without what the engine knows alone, and without what depends on its cache."""
    for name in (*LEFT_OPEN, "usage"):
        response.pop(name, None)
    return _without_calls(response)


def _without_calls(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _without_calls(one) for key, one in value.items() if key != "call_id"}
    return [_without_calls(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ASKS)
async def test_events_equal_those_of_the_engine(running: Live, name: str) -> None:
    body = asked(name, stream=True)
    async with httpx.AsyncClient(base_url=URL, timeout=300) as engine:
        theirs = joined(events_of((await engine.post("/v1/responses", json=body)).content))
    answer = await running.client.post("/sessions/s/v1/responses", json=body, timeout=300)
    ours = joined(events_of(answer.content))
    assert [one["type"] for one in ours] == [one["type"] for one in theirs]
    for mine, one in zip(ours, theirs, strict=True):
        for event in (mine, one):
            if "response" in event:
                event["response"] = same(event["response"])
        assert _without_calls(mine) == _without_calls(one)


@pytest.mark.parametrize("name", ASKS)
async def test_plain_responses_equal_those_of_the_engine(running: Live, name: str) -> None:
    body = asked(name)
    async with httpx.AsyncClient(base_url=URL, timeout=300) as engine:
        theirs = (await engine.post("/v1/responses", json=body)).json()
    answer = await running.client.post("/sessions/s/v1/responses", json=body, timeout=300)
    assert same(normal(answer.json())) == same(normal(theirs))
    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.query_traces()
    assert trace.verdict == "COMPLETE", trace.reasons
    assert len(trace.completion_token_ids) == theirs["usage"]["output_tokens"]


def some_items(rng: random.Random) -> list[Json]:
    """Items as agents send them, in any order that an engine takes."""
    kinds: list[Callable[[], Json]] = [
        lambda: {"role": rng.choice(["user", "system", "developer"]), "content": "Hello"},
        lambda: {"role": "user", "content": [
            {"type": "input_text", "text": text} for text in rng.choices(["a", "b c"], k=2)]},
        lambda: {"role": "assistant", "content": "Yes"},
        lambda: {"type": "message", "role": "assistant", "id": "m", "status": "completed",
                 "content": [{"type": "output_text", "text": "No", "annotations": []}]},
        lambda: {"type": "reasoning", "id": "r", "summary": [],
                 "content": [{"type": "reasoning_text", "text": "Hm"}]},
        lambda: {"type": "reasoning", "id": "r",
                 "summary": [{"type": "summary_text", "text": "Short"}]},
        lambda: {"type": "function_call", "call_id": "c1", "name": "go", "arguments": "{}",
                 **({"namespace": "maps"} if rng.random() < 0.5 else {})},
        lambda: {"type": "function_call_output", "call_id": "c1", "output": "cold"},
        lambda: {"type": "custom_tool_call", "call_id": "c2", "name": "free", "input": 'a "b"'},
        lambda: {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
    ]  # fmt: skip
    items = [rng.choice(kinds)() for _ in range(rng.randint(1, 8))]
    return [{"role": "user", "content": "Begin"}, *items]


def a_request(rng: random.Random) -> Json:
    tools: list[Json] = rng.choice([[], [TOOL], [TOOL, SPACE], [FREE, {"type": "web_search"}]])
    made: Json = {"model": "tiny", "input": some_items(rng)}
    if rng.random() < 0.5:
        made["instructions"] = "Be short."
    if tools:
        made["tools"] = [{**tool, **rng.choice([{}, {"strict": True}])} for tool in tools]
        made["tool_choice"] = rng.choice(["auto", "none"])
    if rng.random() < 0.3:
        made["reasoning"] = {"effort": rng.choice(["low", "none"])}
    return made


async def test_prompts_equal_those_of_the_engine() -> None:
    """300 random requests, rendered by the engine itself and as the chat that is made of them."""
    rng, differ = random.Random(20), []
    async with httpx.AsyncClient(base_url=URL, timeout=300) as engine:
        for _ in range(300):
            body = a_request(rng)
            own = await engine.post("/v1/responses/render", json=body)
            made = responses_as_chat(msgspec.json.encode(body)).body
            ours = await engine.post("/v1/chat/completions/render", content=made, headers=JSON)
            assert (own.status_code, ours.status_code) == (200, 200), (own.text, ours.text)
            if own.json()["token_ids"] != ours.json()["token_ids"]:
                differ.append(body)
    assert differ == []
