"""Tool calls and answers of a given format, plain, streamed and through OpenAI's client."""

import json

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from simulator.test_simulator import MESSAGES, NOW, Body, chat, choices, streamed_chat

from gateway.simulator import Simulator

WEATHER: Body = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
TOOLS = [
    {"type": "function", "function": WEATHER},
    NOW,
]


async def test_simulator_streamed_tool_calls_merge_into_the_plain_ones(
    client: httpx.AsyncClient,
) -> None:
    several = 0
    for seed in range(12):
        body = {"tools": TOOLS, "tool_choice": "required", "seed": seed}
        plain = (await chat(client, **body))["choices"][0]
        events = await streamed_chat(client, **body)
        calls: dict[int, Body] = {}
        for part in choices(events):
            for call in part["delta"].get("tool_calls", ()):
                merged = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                merged["name"] += call["function"].get("name", "")
                merged["arguments"] += call["function"].get("arguments", "")
        assert list(calls.values()) == [call["function"] for call in plain["message"]["tool_calls"]]
        for call in calls.values():
            arguments = json.loads(call["arguments"])
            if call["name"] == "get_weather":
                assert arguments["city"] in ("Oslo", "Rome")
                assert isinstance(arguments["days"], int)
        several += len(calls) > 1
        assert plain["finish_reason"] == choices(events)[-1]["finish_reason"] == "tool_calls"
    assert several


@pytest.mark.parametrize(
    ("choice", "finish_reason", "content"),
    [
        ("auto", "tool_calls", None),
        ("required", "tool_calls", ""),
        ({"type": "function", "function": {"name": "now"}}, "stop", ""),
    ],
)
async def test_simulator_finish_reason_follows_the_tool_choice(
    client: httpx.AsyncClient, choice: object, finish_reason: str, content: str | None
) -> None:
    answer = (await chat(client, tools=TOOLS, tool_choice=choice))["choices"][0]
    assert answer["finish_reason"] == finish_reason
    assert answer["message"]["content"] == content
    assert answer["message"]["tool_calls"]


async def test_simulator_calls_no_tool_with_choice_none_or_a_tool_result(
    client: httpx.AsyncClient,
) -> None:
    answers = [
        await chat(client, tools=TOOLS, tool_choice="none"),
        await chat(client, tools=TOOLS, messages=[*MESSAGES, {"role": "tool", "content": "9 °C"}]),
    ]
    for answer in answers:
        assert "tool_calls" not in answer["choices"][0]["message"]
        assert answer["choices"][0]["message"]["content"]


async def test_simulator_returns_a_truncated_tool_call_as_text(client: httpx.AsyncClient) -> None:
    body = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 12}
    answer = (await chat(client, **body))["choices"][0]
    assert answer["finish_reason"] == "length"
    assert answer["message"]["content"].startswith("<tool_call>")
    assert "tool_calls" not in answer["message"]


async def test_simulator_response_fits_the_requested_json_schema(client: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"const": "boat"},
            "sails": {"type": "integer", "minimum": 1, "maximum": 4},
            "crew": {"type": "array", "items": {"$ref": "#/$defs/sailor"}},
            "home": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "length": {"type": "number"},
            "afloat": {"type": ["boolean", "null"]},
        },
        "$defs": {"sailor": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    answer = await chat(
        client, response_format={"type": "json_schema", "json_schema": {"schema": schema}}
    )
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert list(found) == list(schema["properties"])
    assert found["kind"] == "boat"
    assert 1 <= found["sails"] <= 4
    assert isinstance(found["crew"][0]["name"], str)
    assert isinstance(found["home"], str)
    assert isinstance(found["length"], float)
    assert isinstance(found["afloat"], bool)


async def test_openai_client_chats_with_the_simulator(simulator: Simulator) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
    async with openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="any") as client:
        plain = await client.chat.completions.create(model="sim", messages=messages, seed=4)
        stream = await client.chat.completions.create(
            model="sim", messages=messages, seed=4, stream=True
        )
        parts = [part async for part in stream]
        completion = await client.completions.create(model="sim", prompt="The ferry", max_tokens=5)
    said = "".join(part.choices[0].delta.content or "" for part in parts)
    assert said == plain.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


async def test_openai_client_runs_an_agent_loop_on_the_simulator(simulator: Simulator) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather?"}]
    tools: list[ChatCompletionToolParam] = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": WEATHER["parameters"],
                "strict": True,
            },
        }
    ]
    async with openai.AsyncOpenAI(base_url=f"{simulator.url}/v1", api_key="any") as client:
        async with client.chat.completions.stream(
            model="sim", messages=messages, tools=tools
        ) as stream:
            asked = (await stream.get_final_completion()).choices[0]
        assert asked.finish_reason == "tool_calls"
        (call,) = asked.message.tool_calls or []
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
        messages.append(asked.message.model_dump(exclude_none=True))  # type: ignore[arg-type]
        messages.append({"role": "tool", "tool_call_id": call.id or "", "content": "9 degrees"})
        answer = await client.chat.completions.create(model="sim", messages=messages, tools=tools)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
