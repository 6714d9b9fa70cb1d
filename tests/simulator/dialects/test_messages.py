"""Messages of the simulator: the same answer as chat's, and what it refuses in which envelope."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from simulator.dialects.test_tokens import CHAT, GENERATE, post
from simulator.test_simulator_tools import WEATHER

from gateway.simulator import Simulator, SimulatorConfig

Body = dict[str, Any]

MESSAGES = "/v1/messages"
TOOL: Body = {"name": "get_weather", "input_schema": WEATHER["parameters"]}
HELLO: Body = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}
ASKED: Body = {**HELLO, "max_tokens": 100, "temperature": 0}
AS_CHAT: Body = {**ASKED, "tools": [{"type": "function", "function": WEATHER}]}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    config = SimulatorConfig(scale_out=True)
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as one:
        yield one


async def events(client: httpx.AsyncClient, body: Body, **headers: str) -> list[Body]:
    answer = await client.post(MESSAGES, json={**body, "stream": True}, headers=headers)
    assert answer.status_code == 200, answer.text
    frames = answer.text.split("\n\n")[:-1]
    found = [json.loads(frame.partition("\ndata: ")[2]) for frame in frames]
    assert [frame.partition("\n")[0] for frame in frames] == [
        f"event: {one['type']}" for one in found
    ]
    return found


async def test_simulator_messages_say_what_chat_says(client: httpx.AsyncClient) -> None:
    chat = await post(client, CHAT, ASKED)
    message = await post(client, MESSAGES, ASKED)
    text = chat["choices"][0]["message"]["content"]
    assert message["content"] == [{"type": "text", "text": text}]
    assert message["stop_reason"] == "end_turn"
    deltas = [one["delta"].get("text", "") for one in await events(client, ASKED) if "delta" in one]
    assert "".join(deltas) == text


async def test_simulator_messages_call_the_tool_that_chat_calls(client: httpx.AsyncClient) -> None:
    chat = await post(client, CHAT, AS_CHAT)
    (call,) = chat["choices"][0]["message"]["tool_calls"]
    body = {**ASKED, "tools": [TOOL]}
    message = await post(client, MESSAGES, body)
    (block,) = message["content"]
    assert (block["name"], block["input"]) == (
        "get_weather",
        json.loads(call["function"]["arguments"]),
    )
    streamed = await events(client, body)
    parts = [
        one["delta"]["partial_json"] for one in streamed if one["type"] == "content_block_delta"
    ]
    assert json.loads("".join(parts)) == block["input"]
    assert streamed[-2]["delta"]["stop_reason"] == message["stop_reason"] == "tool_use"


async def test_simulator_messages_render_to_the_prompt_and_the_tokens_of_chat(
    client: httpx.AsyncClient,
) -> None:
    rendered = await post(client, f"{MESSAGES}/render", {**ASKED, "tools": [TOOL]})
    chat = await post(client, CHAT, {**AS_CHAT, "return_token_ids": True})
    assert rendered["token_ids"] == chat["prompt_token_ids"]
    found = await post(client, GENERATE, rendered)
    assert found["choices"][0]["token_ids"] == chat["choices"][0]["token_ids"]
    counted = await post(client, f"{MESSAGES}/count_tokens", {**HELLO, "tools": [TOOL]})
    assert counted["input_tokens"] == len(rendered["token_ids"])


REFUSED: dict[str, tuple[Body, int, str, str]] = {
    "no max_tokens": (HELLO, 400, "error.type", "Bad Request"),
    "max_tokens 0": ({**ASKED, "max_tokens": 0}, 400, "error.message", "must be positive"),
    "no model": ({**ASKED, "model": ""}, 400, "error.message", "Model is required"),
    "role": (
        {**ASKED, "messages": [{"role": "x", "content": ""}]},
        400,
        "error.type",
        "Bad Request",
    ),
    "budget": (
        {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 1000}},
        400,
        "error.message",
        "greater than or equal to 1024",
    ),
    "budget above max_tokens": (
        {**ASKED, "thinking": {"type": "enabled", "budget_tokens": 2000}},
        400,
        "error.message",
        "must be less than max_tokens",
    ),
    "max_tokens above the context": ({**ASKED, "max_tokens": 5000}, 400, "type", "error"),
    "unknown model": ({**ASKED, "model": "x"}, 404, "type", "error"),
    "image": (
        {
            **ASKED,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "url": "u"}}],
                }
            ],
        },
        400,
        "type",
        "error",
    ),
    "no reasoning": (
        {**ASKED, "max_tokens": 1500, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        400,
        "type",
        "error",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
async def test_simulator_messages_refuse_in_one_of_two_envelopes(
    client: httpx.AsyncClient, mistake: str
) -> None:
    body, status, where, says = REFUSED[mistake]
    answer = await client.post(MESSAGES, json=body)
    assert answer.status_code == status
    found: Any = answer.json()
    assert ("code" in found["error"]) == (where != "type")
    for key in where.split("."):
        found = found[key]
    assert says in found


async def test_simulator_messages_stream_ends_in_an_error_event_if_the_engine_dies(
    client: httpx.AsyncClient,
) -> None:
    found = await events(client, ASKED, **{"x-sim-fault": "error-event:4"})
    assert [one["type"] for one in found[-2:]] == ["content_block_delta", "error"]


@pytest.mark.parametrize(("fault", "status"), [("500", 500), ("error-event", 500), ("503", 503)])
async def test_simulator_messages_fail_as_the_engine_does(
    client: httpx.AsyncClient, fault: str, status: int
) -> None:
    answer = await client.post(MESSAGES, json=ASKED, headers={"x-sim-fault": fault})
    assert answer.status_code == status
    assert (answer.json().get("type") == "error") == (status == 500)


async def test_simulator_messages_that_are_aborted_have_no_reason(
    client: httpx.AsyncClient,
) -> None:
    headers = {"x-sim-fault": "abort:3"}
    plain = (await client.post(MESSAGES, json=ASKED, headers=headers)).json()
    assert "stop_reason" not in plain
    assert (await events(client, ASKED, **headers))[-2]["delta"]["stop_reason"] is None
    early = await events(client, ASKED, **{"x-sim-fault": "abort:0"})
    assert early[-2]["delta"]["stop_reason"] == "end_turn"
    assert early[-2]["usage"]["output_tokens"] == 0


async def test_simulator_messages_count_cached_tokens_apart_at_the_end_alone() -> None:
    config = SimulatorConfig(prompt_tokens_details=True)
    body = {**ASKED, "messages": [{"role": "user", "content": "the harbour " * 30}]}
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        await events(client, body)
        found = await events(client, body)
    begun, ended = found[0]["message"]["usage"], found[-2]["usage"]
    assert ended["cache_read_input_tokens"] > 0
    assert begun["input_tokens"] == ended["input_tokens"] + ended["cache_read_input_tokens"]
