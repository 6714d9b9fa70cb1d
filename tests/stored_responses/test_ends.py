"""What is kept of the end of a response: when it has ended for its callers, and how it ended."""

import asyncio
from pathlib import Path
from typing import Any

import openai
from stored_responses.conftest import STORED
from stored_responses.test_background import ended
from support.gateways.capturing import capturing

from gateway import Call, Outcome, hookimpl
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker, sse


class Holding:
    """Holds back the commits of calls that sample until it is told to let them go."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    @hookimpl
    async def call_finished(self, call: Call, outcome: Outcome) -> None:
        if call.internal:
            self.reached.set()
            await self.go.wait()


async def test_a_response_that_has_ended_can_be_followed(
    gateway_for: GatewayFor, tmp_path: Path, simulator: object
) -> None:
    running = await capturing(gateway_for, tmp_path, Holding, STORED)
    holding = running.plugin(Holding)
    url = f"{running.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        fields: Any = {"model": "sim", "input": "Hello", "max_output_tokens": 2}
        made = await client.responses.create(background=True, **fields)
        await holding.reached.wait()
        assert (await client.responses.retrieve(made.id)).status in ("queued", "in_progress")
        holding.go.set()
        await ended(client, made.id)
        assert (await client.responses.create(previous_response_id=made.id, **fields)).output_text


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Undone:
    """A worker that ends a stream with a finish reason and without `[DONE]`, once it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def script(self, connection: ScriptedConnection) -> None:
        await connection.read_request()
        events = sse(*[
            {"id": "c", "model": "sim", "choices": [{"index": 0, "delta": delta, **more}]}
            for delta, more in (({"content": "Hi"}, {}), ({}, {"finish_reason": "stop"}))
        ])  # fmt: skip
        await connection.write(HEAD + b"%x\r\n%b\r\n" % (len(events), events))
        await self.go.wait()
        await connection.write(b"0\r\n\r\n")


async def test_a_stream_that_ends_without_done_is_kept_as_it_ended(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """All of it has been sent before the end comes: no bytes are left to go with that."""
    worker = Undone()
    async with ScriptedWorker(worker.script) as engine:
        live = await capturing(gateway_for, tmp_path, STORED, workers=[engine.url])
        async with openai.AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key="none", max_retries=0
        ) as client:
            events = await client.responses.create(model="sim", input="Hello", stream=True)
            async for event in events:
                if event.type == "response.output_text.delta":
                    worker.go.set()
            assert event.type == "response.completed"
            kept = await client.responses.retrieve(event.response.id)
    assert (kept.status, kept.output_text) == ("completed", "Hi")
