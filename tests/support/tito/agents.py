"""Agents of several turns, and what became of the tokens that were sampled for them."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.simulator.engine.tokens import EOS, id_of
from gateway.testing import Live

LETTERS = " the tall and old sun "
"""Text that the vocabulary has as words, and as letters."""

ALLOWED = sorted({EOS, *(id_of(letter) for letter in LETTERS)})
"""Tokens of single letters, whose text is read back as words; and the end of a turn."""


class Agent:
    """Keeps the messages of one conversation; `answers` are the texts that it got."""

    def __init__(self, client: httpx.AsyncClient, session_id: str, **fields: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self._client = client
        self._path = f"/sessions/{session_id}/v1/chat/completions"
        self._fields = {"model": "sim", "max_tokens": 12, "allowed_token_ids": ALLOWED, **fields}

    async def say(self, text: str, **fields: Any) -> dict[str, Any]:
        """Say something; return the message of the answer."""
        self.messages.append({"role": "user", "content": text})
        return await self._ask(**fields)

    async def work(self, text: str, **fields: Any) -> dict[str, Any]:
        """Say something, and give a result for each tool that the model calls."""
        message = await self.say(text, **fields)
        for _ in range(3):
            for call in message.get("tool_calls") or ():
                result = {"role": "tool", "tool_call_id": call["id"], "content": "It rains."}
                self.messages.append(result)
            if self.messages[-1]["role"] != "tool":
                break
            message = await self._ask(**fields)
        return message

    async def _ask(self, **fields: Any) -> dict[str, Any]:
        asked = {**self._fields, **fields, "messages": self.messages}
        answer = await self._client.post(self._path, json=asked)
        assert answer.status_code == 200, answer.text
        message = joined(answer.text) if asked.get("stream") else plain(answer)
        self.answers.append(message["content"])
        self.messages.append(message)
        return message


async def with_tito(live: Live, session_id: str, mode: str = "require", **fields: Any) -> Agent:
    """Return an agent in a new session with token-in/token-out."""
    async with AsyncGatewayClient(live.url) as client:
        await client.create_session(session_id, tito=mode)
    return Agent(live.client, session_id, **fields)


async def traces_of(live: Live, session_id: str) -> list[Trace]:
    async with AsyncGatewayClient(live.url) as client:
        return await client.query_traces([session_id])


def plain(answer: httpx.Response) -> dict[str, Any]:
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    found = {name: message[name] for name in ("role", "content")}
    calls = message.get("tool_calls")
    return {**found, "tool_calls": calls} if calls else found


def joined(text: str) -> dict[str, Any]:
    """Return the message of a stream."""
    lines = text.split("\n\n")
    assert lines[-2] == "data: [DONE]", text
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    content = "".join(delta.get("content") or "" for delta in deltas)
    calls: dict[int, dict[str, Any]] = {}
    for call in (call for delta in deltas for call in delta.get("tool_calls") or ()):
        function = {"name": "", "arguments": ""}
        own = calls.setdefault(call["index"], {"type": "function", "function": function})
        own["id"] = own.get("id") or call.get("id")
        for name in function:
            own["function"][name] += call["function"].get(name) or ""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    return {**message, "tool_calls": list(calls.values())} if calls else message


def reworded(traces: Sequence[Trace]) -> int:
    """Count the sampled tokens that a later turn's prompt does not have where they belong."""
    lost = 0
    for one, other in pairwise(traces):
        begin = len(one.prompt_token_ids)
        sampled = one.completion_token_ids
        kept = other.prompt_token_ids[begin : begin + len(sampled)]
        same = zip(sampled, kept, strict=False)
        lost += len(sampled) - sum(a == b for a, b in same)
    return lost
