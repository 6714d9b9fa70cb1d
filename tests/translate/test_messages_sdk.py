"""The `anthropic` client, unmodified, whose messages are carried as chat and captured."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError
from support.gateways.capturing import capturing
from support.plugins.recording_plugin import until

from gateway import Call, NoWorker, hookimpl
from gateway.client import AsyncGatewayClient
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live

TRANSLATE = "gateway_plugins.translate:Translate"
TOOL: Any = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
ASKED: Any = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}]}


class Once:
    """Rejects the first call."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def admit(self, call: Call) -> None:
        self.calls += 1
        if self.calls == 1:
            error = NoWorker("nobody")
            error.headers = ((b"retry-after-ms", b"1"),)
            raise error


@asynccontextmanager
async def client_of(live: Live) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(api_key="any", base_url=f"{live.url}/sessions/s") as client:
        yield client


async def test_sdk_client_streams_text_and_gets_the_final_message(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    async with client_of(live) as client:
        async with client.messages.stream(**ASKED, max_tokens=20) as stream:
            text = [part async for part in stream.text_stream]
            message = await stream.get_final_message()
    async with AsyncGatewayClient(live.url) as gateway:
        [trace] = await gateway.query_traces()
    assert len(text) > 1
    assert message.content[0].type == "text"
    assert message.content[0].text == "".join(text) == trace.response_message["content"]
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens == len(trace.prompt_token_ids)
    assert message.usage.output_tokens == len(trace.completion_token_ids)
    assert trace.verdict == "COMPLETE"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_sdk_client_has_a_tool_called(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    asked = {**ASKED, "tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 200}
    async with client_of(live) as client:
        if stream:
            async with client.messages.stream(**asked) as streamed:
                message = await streamed.get_final_message()
        else:
            message = await client.messages.create(**asked)
        [block] = message.content
        assert block.type == "tool_use"
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True)]}
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
        turns = [*ASKED["messages"], said, {"role": "user", "content": [result]}]
        await client.messages.create(
            **{**asked, "messages": turns, "tool_choice": {"type": "auto"}}
        )
    async with AsyncGatewayClient(live.url) as gateway:
        traces = await gateway.get_session_traces("s")
    assert message.stop_reason == "tool_use"
    assert [trace.verdict for trace in traces] == ["COMPLETE", "COMPLETE"]


async def test_sdk_client_asks_again_and_raises_the_reason(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, Once, TRANSLATE)
    async with client_of(live) as client:
        message = await client.messages.create(**ASKED, max_tokens=3)
        with pytest.raises(BadRequestError) as refused:
            await client.messages.create(**ASKED, max_tokens=3, extra_body={"temperature": -7})
    assert message.usage.output_tokens == 3
    assert "temperature" in str(refused.value)


async def test_sdk_client_that_leaves_ends_the_generation(
    gateway_for: GatewayFor, tmp_path: Path, simulator: Simulator
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    async with client_of(live) as client:
        async with client.messages.stream(**ASKED, max_tokens=2_000) as stream:
            async for _ in stream.text_stream:
                break
    await until(lambda: not live.gateway.calls_in_flight)
    async with AsyncGatewayClient(live.url) as gateway:
        [trace] = await gateway.query_traces()
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["caller_gone", "unfinished"])
    assert trace.completion_token_ids
