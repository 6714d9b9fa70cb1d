"""Agents of several turns, and what became of the tokens that were sampled for them."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx

from gateway import Trace
from gateway.simulator.engine.tokens import EOS, id_of

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
        asked = {**self._fields, **fields, "messages": self.messages}
        answer = await self._client.post(self._path, json=asked)
        assert answer.status_code == 200, answer.text
        message = joined(answer.text) if asked.get("stream") else plain(answer)
        self.answers.append(message["content"])
        self.messages.append(message)
        return message


def plain(answer: httpx.Response) -> dict[str, Any]:
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    return {name: message[name] for name in ("role", "content")}


def joined(text: str) -> dict[str, Any]:
    """Return the message of a stream."""
    lines = text.split("\n\n")
    assert lines[-2] == "data: [DONE]", text
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    content = "".join(delta.get("content") or "" for delta in deltas)
    return {"role": "assistant", "content": content}


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
