"""The request by which another worker carries a stream on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway import NOT_JSON, CallError, Worker

COMPLETIONS = "/v1/completions"

DEFAULT_MAX_TOKENS = 16
"""What engines take for a request of completions or generate that sets none."""

JSON = ((b"content-type", b"application/json"),)

TIMEOUT = 5.0
"""Seconds for each question to the next worker."""

TAIL = 16
"""Tokens before the seam that are enough to tell whether a character is whole there."""

OF_CHAT = frozenset(
    {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens"),
        *("logprobs", "top_logprobs", "chat_template", "chat_template_kwargs", "documents"),
        *("add_generation_prompt", "continue_final_message", "reasoning_effort"),
        *("include_reasoning", "separate_reasoning", "stream_reasoning", "response_format"),
        *("media_io_kwargs", "mm_processor_kwargs", "add_special_tokens"),
    }
)
"""Fields of chat that completions do not have, or mean otherwise."""


class Unable(Exception):
    """The stream cannot be carried on; the message says why."""


def carrying(
    api: str, body: Mapping[str, Any], prompt: Sequence[int], sampled: int, *, longest: int | None
) -> dict[str, Any]:
    """Return the request to sample what comes after `prompt`, of which `sampled` were sampled.

    `body` is the request that began the stream, `longest` the most tokens of a sequence at the next
    worker. Raises Unable if no token is left to sample.
    """
    if api == "generate":
        params = {"max_tokens": DEFAULT_MAX_TOKENS, **body["sampling_params"]}
        return {**body, "token_ids": prompt, "sampling_params": _shortened(params, sampled)}
    asked = dict(body)
    if api == "chat":
        asked = _of_completions(body)
        if asked["max_tokens"] is None:
            asked["max_tokens"] = _room(longest, prompt, sampled)
    elif asked.get("max_tokens") is None:
        asked["max_tokens"] = DEFAULT_MAX_TOKENS
    return {**_shortened(asked, sampled), "prompt": prompt}


def _of_completions(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request of chat as one of completions, without its prompt."""
    asked = {name: value for name, value in body.items() if name not in OF_CHAT}
    longest = body.get("max_completion_tokens")
    asked["max_tokens"] = body.get("max_tokens") if longest is None else longest
    if body.get("logprobs"):
        asked["logprobs"] = body.get("top_logprobs") or 0
    return asked


def _room(longest: int | None, prompt: Sequence[int], sampled: int) -> int:
    if longest is None:
        raise Unable("max_tokens is not set, and the next worker does not tell max_model_len")
    return longest - len(prompt) + sampled


def _shortened(params: Mapping[str, Any], sampled: int) -> dict[str, Any]:
    made, most, least = dict(params), params.get("max_tokens"), params.get("min_tokens")
    if isinstance(most, int):
        made["max_tokens"] = most - sampled
        if most <= sampled:
            raise Unable("all of max_tokens were sampled")
    if isinstance(least, int):
        made["min_tokens"] = max(least - sampled, 0)
    return made


def encoded(request: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(request)
    except OverflowError:  # callers send integers of any size
        return json.dumps(request).encode()


async def longest_of(worker: Worker, model: object) -> int | None:
    """Return the most tokens of a sequence that the worker tells; None if it does not."""
    told = await _asked(worker, "GET", "/v1/models", None)
    cards = told.get("data")
    for card in cards if isinstance(cards, list) else ():
        if isinstance(card, dict) and card.get("id") == model:
            found = card.get("max_model_len")
            return found if isinstance(found, int) else None
    return None


async def text_of(worker: Worker, model: object, token_ids: Sequence[int]) -> str | None:
    """Return the text of the last tokens, as the worker decodes them; None if it does not."""
    request = {"tokens": list(token_ids[-TAIL:]), **({"model": model} if model else {})}
    told = await _asked(worker, "POST", "/detokenize", request)
    found = told.get("prompt", told.get("text"))
    return found if isinstance(found, str) else None


async def _asked(worker: Worker, method: str, path: str, body: object) -> dict[str, Any]:
    data = b"" if body is None else msgspec.json.encode(body)
    try:
        answer = await worker.request(method, path, data, headers=JSON, timeout=TIMEOUT)
        return msgspec.json.decode(answer.body, type=dict[str, Any])
    except (CallError, *NOT_JSON):
        return {}
