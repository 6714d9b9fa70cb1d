"""Makes a plain chat response of a plain response of generate."""

import time
from collections.abc import Mapping
from typing import Any

from gateway_plugins.trace_capture.tito.answer.marks import without_hidden
from gateway_plugins.trace_capture.tito.answer.stops import cut_at, keeps_stop
from gateway_plugins.trace_capture.tito.answer.structs import (
    Asked,
    Choice,
    Generated,
    chat_id,
    with_ids,
)

_EMPTY: Mapping[str, Any] = {
    "role": "assistant",
    "content": "",
    "refusal": None,
    "annotations": None,
    "audio": None,
    "function_call": None,
    "reasoning": None,
}
"""A message in which nothing is said, as vLLM writes it."""


def derender_request(asked: Asked, generated: Generated) -> dict[str, Any] | None:
    """Return the request for the messages of all choices that have text; None if none is needed."""
    keep = keeps_stop(asked.request)
    parsed = [(one, one.parsed_ids(keeps_stop=keep)) for one in generated.choices]
    choices = [
        {
            "index": choice.index,
            "token_ids": ids,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        for choice, ids in parsed
        if ids
    ]
    if not (asked.parsed and choices):
        return None
    response: dict[str, Any] = {"request_id": generated.request_id, "choices": choices}
    response |= {"prompt_token_ids": asked.prompt, "output_mode": "tokens"}
    return asked.derender(generate_response=response, prompt_tokens=len(asked.prompt))


def messages_of(
    asked: Asked, generated: Generated, derendered: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    """Return the message of each choice by its index; `derendered` is empty if nothing was."""
    found = {choice["index"]: choice["message"] for choice in derendered.get("choices", ())}
    return {one.index: _message(asked, one, found.get(one.index)) for one in generated.choices}


def _message(asked: Asked, choice: Choice, parsed: Mapping[str, Any] | None) -> dict[str, Any]:
    if parsed is None:
        return {**_EMPTY, "content": choice.text}
    calls = parsed.get("tool_calls") or []
    found = {**_EMPTY, **{name: value for name, value in parsed.items() if name != "tool_calls"}}
    if not asked.shows_marks:
        said = {name: found[name] for name in ("content", "reasoning") if found[name]}
        found |= {name: without_hidden(text, choice.text) or None for name, text in said.items()}
    if calls:
        kept = calls[:1] if asked.request.get("parallel_tool_calls") is False else calls
        return {**found, "tool_calls": with_ids(kept)}
    last = "content" if found["content"] else "reasoning"
    stop = choice.stop_reason
    if isinstance(stop, str) and found[last]:
        text = cut_at(found[last], stop, choice.text, keep=keeps_stop(asked.request))
        found[last] = text if last == "reasoning" else text or None
    return found


def chat_answer(
    asked: Asked, generated: Generated, messages: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the chat response."""
    return {
        "id": chat_id(generated.request_id),
        "object": "chat.completion",
        "created": generated.created or int(time.time()),
        "model": generated.model or asked.model,
        "choices": [_choice(asked, one, messages[one.index]) for one in generated.choices],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": generated.usage,
        "prompt_logprobs": None,
        "prompt_token_ids": asked.prompt if asked.returns_ids else None,
        "kv_transfer_params": None,
    }


def _choice(asked: Asked, choice: Choice, message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "index": choice.index,
        "message": message,
        "logprobs": asked.logprobs([choice.logprobs]),
        "finish_reason": _finish_reason(asked, choice, called=bool(message.get("tool_calls"))),
        "stop_reason": choice.stop_reason,
        "token_ids": choice.token_ids if asked.returns_ids else None,
    }


def _finish_reason(asked: Asked, choice: Choice, *, called: bool) -> str | None:
    """Return that of a plain answer of chat: not quite that of its streams."""
    wanted, told = asked.request.get("tool_choice"), choice.finish_reason
    if wanted == "required":
        return "tool_calls" if told == "stop" else told
    if wanted in (None, "auto") and told == "length":
        return "tool_calls" if called else told
    return asked.finish_reason(told, called=called)
