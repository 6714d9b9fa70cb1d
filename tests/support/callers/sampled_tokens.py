"""What a caller that asks for token ids and logprobs itself is told of them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway import Trace

ASKS: Mapping[str, object] = {"logprobs": True, "return_token_ids": True}
"""Fields of a chat that make the engine tell them."""

DONE = "[DONE]"


class Sampled(msgspec.Struct):
    """One choice. An answer that was cut short gives the beginning of each list."""

    prompt: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    content: str = ""
    finish_reason: str | None = None


def sampled(body: bytes, *, stream: bool) -> dict[int, Sampled]:
    """The choices of a chat's answer, by their index."""
    found: dict[int, Sampled] = {}
    for event in _events(body) if stream else [json.loads(body)]:
        for choice in event["choices"]:
            one = found.setdefault(choice["index"], Sampled())
            _add(one, choice, event.get("prompt_token_ids") or [])
    return found


def sampled_of(trace: Trace) -> dict[int, Sampled]:
    """The same, as it was recorded."""
    return {
        one.index: Sampled(
            one.prompt_token_ids,
            one.token_ids,
            one.logprobs,
            (one.message or {}).get("content") or "",
            one.finish_reason,
        )
        for one in trace.choices
    }


def _add(one: Sampled, choice: Mapping[str, Any], prompt: list[int]) -> None:
    one.prompt = one.prompt or prompt
    one.token_ids += choice.get("token_ids") or []
    logprobs = (choice.get("logprobs") or {}).get("content") or []
    one.logprobs += [entry["logprob"] for entry in logprobs]
    said = choice.get("message") or choice.get("delta") or {}
    one.content += said.get("content") or ""
    one.finish_reason = choice.get("finish_reason") or one.finish_reason


def _events(body: bytes) -> Iterator[Any]:
    """Those that are whole, but the last."""
    for event in body.decode(errors="ignore").split("\n\n")[:-1]:
        data = event.removeprefix("data: ")
        if data != DONE:
            yield json.loads(data)
