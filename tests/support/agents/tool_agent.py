"""An agent with a shell that asks by the client `openai`, and what it hears, byte for byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
from openai import AsyncOpenAI
from support.agents.conversation import Step

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import Live

CAPTURE = "gateway_plugins.trace_capture:TraceCapture"
REPLAY = "gateway_plugins.replay:Replay"

STEPS = [
    Step("First the file is written.", "echo one > made.txt", "How?"),
    Step("Now the file is read.", "cat made.txt", "Is it there?"),
    Step("All of that is done."),
]
"""What the model says to the agent's task."""

SHELL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a command.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
}

OF_GATEWAY = {"date", "server-timing", "x-gateway-worker", "x-gateway-replayed", "x-request-id"}
"""Header lines of which each call has its own."""


class Heard(msgspec.Struct, frozen=True):
    """A response as the agent got it, without the lines that each call has its own of."""

    status: int
    headers: list[tuple[str, str]]
    body: bytearray


class _Listening(httpx.AsyncHTTPTransport):
    """Keeps what it receives, also of responses that break off."""

    def __init__(self, heard: list[Heard]) -> None:
        super().__init__()
        self._heard = heard

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        lines = [line for line in response.headers.items() if line[0] not in OF_GATEWAY]
        self._heard.append(Heard(response.status_code, lines, bytearray()))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Copied(response.stream, self._heard[-1].body)
        return response


class _Copied(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, copy: bytearray) -> None:
        self._stream = stream
        self._copy = copy

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._copy += chunk
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class ToolAgent:
    """Works on a task until the model calls no tool; `heard` are the responses, in order."""

    def __init__(self, url: str, *, streams: bool = True, **fields: Any) -> None:
        self.heard: list[Heard] = []
        self._http = httpx.AsyncClient(timeout=None, transport=_Listening(self.heard))
        client: Any = AsyncOpenAI
        self._client = client(
            base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=self._http
        )
        self._fields = {"model": "sim", "tools": [SHELL], "stream": streams, **fields}

    async def work(self, task: str = "Write a file and read it.") -> list[dict[str, Any]]:
        """Return the messages of the conversation."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
        async with self._http:
            while True:
                messages.append(await self._ask(messages))
                calls = messages[-1].get("tool_calls") or ()
                if not calls:
                    return messages
                for call in calls:
                    ran = f"ran {json.loads(call['function']['arguments'])['command']}"
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": ran})

    async def _ask(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        create: Any = self._client.chat.completions.create
        answer = await create(messages=messages, **self._fields)
        if not self._fields["stream"]:
            message: dict[str, Any] = answer.choices[0].message.model_dump(exclude_none=True)
            kept = ("role", "content", "tool_calls")
            return {name: message[name] for name in kept if name in message}
        return await _joined(answer)


async def _joined(stream: Any) -> dict[str, Any]:
    content, calls = "", dict[int, dict[str, Any]]()
    async for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for call in choice.delta.tool_calls or ():
                function = {"name": "", "arguments": ""}
                own = calls.setdefault(call.index, {"type": "function", "function": function})
                own["id"] = own.get("id") or call.id
                own["function"]["name"] += call.function.name or ""
                own["function"]["arguments"] += call.function.arguments or ""
    message = {"role": "assistant", "content": content}
    return {**message, "tool_calls": list(calls.values())} if calls else message


async def traces_of(live: Live, *session_ids: str) -> list[Trace]:
    async with AsyncGatewayClient(live.url) as client:
        return await client.query_traces(list(session_ids) or None)


async def exported(live: Live, path: Path) -> list[Trace]:
    """Write all traces to a file as `gateway traces export` does, and return them."""
    traces = await traces_of(live)
    lines = [msgspec.json.encode(trace) + b"\n" for trace in traces]
    await asyncio.to_thread(path.write_bytes, b"".join(lines))
    return traces
