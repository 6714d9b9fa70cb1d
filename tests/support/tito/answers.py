"""What answers of chat say, however they are cut into events."""

import json
from typing import Any

import httpx


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in lines]


def normal(value: Any) -> Any:
    """Leave out what differs between any two answers, and what generate does not tell."""
    own = ("id", "created", "system_fingerprint", "service_tier", "metrics", "prompt_text")
    if isinstance(value, dict):
        return {k: normal(v) for k, v in value.items() if k not in own and v is not None}
    return [normal(one) for one in value] if isinstance(value, list) else value


def said(stream: list[dict[str, Any]]) -> dict[int | str, Any]:
    """Return all that a stream says, by choice, however it is cut into events."""
    found: dict[int | str, Any] = {
        "usage": [normal(one["usage"]) for one in stream if one.get("usage")]
    }
    for choice in (choice for one in stream for choice in one["choices"]):
        own = found.setdefault(
            choice["index"], {"content": "", "reasoning": "", "calls": {}, "logprobs": []}
        )
        delta = choice["delta"]
        own["content"] += delta.get("content") or ""
        own["reasoning"] += delta.get("reasoning") or ""
        own["finish_reason"] = choice["finish_reason"] or own.get("finish_reason")
        own["stop_reason"] = choice.get("stop_reason") or own.get("stop_reason")
        own["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
        own["ids"] = [*own.get("ids", ()), *(choice.get("token_ids") or ())]
        for call in delta.get("tool_calls") or ():
            one = own["calls"].setdefault(call["index"], ["", ""])
            one[0] += call["function"].get("name") or ""
            one[1] += call["function"].get("arguments") or ""
    return found
