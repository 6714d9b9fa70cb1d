"""The checks of Open Responses' acceptance tests: what a response must have, and its events.

That of an image is left out, as the simulator sees none; test_request has how one is translated.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.gateways.capturing import capturing
from support.records.translated.responses import events_of

from gateway.testing import GatewayFor

TRANSLATE = "gateway_plugins.translate:Translate"

pytestmark = pytest.mark.usefixtures("simulator")

Json = Any


class Format(msgspec.Struct):
    type: str


class Text(msgspec.Struct):
    format: Format


class InputDetails(msgspec.Struct):
    cached_tokens: int


class OutputDetails(msgspec.Struct):
    reasoning_tokens: int


class Usage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class Tool(msgspec.Struct):
    type: str
    name: str
    description: str | None
    parameters: dict[str, Json] | None
    strict: bool | None


class Response(msgspec.Struct):
    """Every field that Open Responses requires, with its type."""

    id: str
    object: str
    created_at: int
    completed_at: int | None
    status: str
    incomplete_details: dict[str, str] | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[Json]
    error: dict[str, Json] | None
    tools: list[Tool]
    tool_choice: str | dict[str, Json]
    truncation: str
    parallel_tool_calls: bool
    text: Text
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: dict[str, Json] | None
    user: str | None
    usage: Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


ITEMS = {
    "message": {"id", "status", "role", "content"},
    "function_call": {"id", "call_id", "name", "arguments", "status"},
    "reasoning": {"id", "summary"},
}

EVENTS = {
    "response.created": {"response"},
    "response.in_progress": {"response"},
    "response.completed": {"response"},
    "response.output_item.added": {"output_index", "item"},
    "response.output_item.done": {"output_index", "item"},
    "response.content_part.added": {"item_id", "output_index", "content_index", "part"},
    "response.content_part.done": {"item_id", "output_index", "content_index", "part"},
    "response.output_text.delta": {"item_id", "output_index", "content_index", "delta", "logprobs"},
    "response.output_text.done": {"item_id", "output_index", "content_index", "text", "logprobs"},
    "response.function_call_arguments.delta": {"item_id", "output_index", "delta"},
    "response.function_call_arguments.done": {"item_id", "output_index", "arguments"},
}


def message(role: str, content: Json) -> Json:
    return {"type": "message", "role": role, "content": content}


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "City and state"}},
        "required": ["location"],
    },
}
BASIC: Json = {"input": [message("user", "Say hello in three words.")]}
TOOLS: Json = {
    "input": [message("user", "What is the weather in San Francisco?")],
    "tools": [WEATHER],
    "tool_choice": "required",
}
REQUESTS: dict[str, Json] = {
    "basic": BASIC,
    "system": {"input": [message("system", "Be a pirate."), message("user", "Say hello.")]},
    "tools": TOOLS,
    "turns": {
        "input": [
            message("user", "My name is Alice."),
            message("assistant", "Hello Alice!"),
            message("user", "What is my name?"),
        ]
    },
}


def check(response: Json, name: str) -> None:
    read = msgspec.convert(response, Response)
    assert read.object == "response"
    assert read.status == "completed"
    assert read.completed_at is not None
    assert read.output
    for item in read.output:
        assert ITEMS[item["type"]] <= set(item)
    if name == "tools":
        assert any(item["type"] == "function_call" for item in read.output)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_requests_of_the_acceptance_tests_are_answered_after_the_schema(
    gateway_for: GatewayFor, tmp_path: Path, name: str, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    asked = {"model": "sim", **REQUESTS[name], "stream": stream}
    answer = await live.client.post("/sessions/s/v1/responses", json=asked)
    assert answer.status_code == 200, answer.text
    if not stream:
        check(answer.json(), name)
        return
    events = events_of(answer.content)
    for number, event in enumerate(events):
        assert EVENTS[event["type"]] <= set(event)
        assert event["sequence_number"] == number
    check(events[-1]["response"], name)
    if name == "tools":
        kinds = [event["type"] for event in events]
        assert "response.function_call_arguments.delta" in kinds
        assert "response.function_call_arguments.done" in kinds
