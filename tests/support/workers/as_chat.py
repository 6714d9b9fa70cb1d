"""Chat responses for which the recorded Messages responses are what an engine made of them."""

import json
from collections.abc import Iterator
from typing import Any

FINISHES = {
    "end_turn": "stop",
    "max_tokens": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    None: "abort",
}


def usage(told: dict[str, int]) -> dict[str, Any]:
    """The usage of a chat for that of a message."""
    read = told.get("cache_read_input_tokens")
    made = told.get("cache_creation_input_tokens")
    prompt = told["input_tokens"] + (read or 0) + (made or 0)
    details = {"cached_tokens": read, "created_cache_tokens": made} if read is not None else None
    count = {"prompt_tokens": prompt, "completion_tokens": told["output_tokens"]}
    return {**count, "total_tokens": sum(count.values()), "prompt_tokens_details": details}


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The data of each event of a Messages stream; its name must be its type."""
    found = []
    for event in body.decode().split("\n\n")[:-1]:
        name, data = event.split("\n", 1)
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def chat_events(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of a chat stream that an engine made these of."""
    head = {"object": "chat.completion.chunk", "created": 1}
    calls = -1
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
                head |= {"id": message["id"], "model": message["model"]}
                first = {"role": "assistant", "content": ""}
                yield {**head, **_choice(first), "usage": usage(message["usage"])}
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                calls += 1
                block = event["content_block"]
                named = {"name": block["name"], "arguments": ""}
                begun = {"id": block["id"], "type": "function", "index": calls, "function": named}
                yield {**head, **_choice({"tool_calls": [begun]})}
            case "content_block_delta" if event["delta"]["type"] != "signature_delta":
                yield {**head, **_choice(_delta(event["delta"], calls))}
            case "message_delta":
                delta = event["delta"]
                finish = {"finish_reason": FINISHES[delta["stop_reason"]]}
                finish["stop_reason"] = delta["stop_sequence"]
                yield {**head, **_choice({}, finish)}
                yield {**head, "choices": [], "usage": usage(event["usage"])}


def _choice(delta: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"choices": [{**choice, **(more or {})}]}


def _delta(delta: dict[str, Any], call: int) -> dict[str, Any]:
    if delta["type"] == "text_delta":
        return {"content": delta["text"]}
    if delta["type"] == "thinking_delta":
        return {"reasoning": delta["thinking"]}
    arguments = {"arguments": delta["partial_json"]}
    return {"tool_calls": [{"index": call, "function": arguments}]}


def chat_answer(message: dict[str, Any]) -> dict[str, Any]:
    """The plain chat response that an engine made this message of."""
    said: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    for block in message["content"]:
        if block["type"] == "text":
            said["content"] = block["text"]
        elif block["type"] == "thinking":
            said["reasoning"] = block["thinking"]
        else:
            called = {"name": block["name"], "arguments": json.dumps(block["input"])}
            said["tool_calls"].append({"id": block["id"], "type": "function", "function": called})
    finish = FINISHES[message.get("stop_reason")]
    choice = {"index": 0, "message": said, "finish_reason": finish}
    choice["stop_reason"] = message.get("stop_sequence")
    head = {"id": message["id"], "object": "chat.completion", "model": message["model"]}
    return {**head, "choices": [choice], "usage": usage(message["usage"])}
