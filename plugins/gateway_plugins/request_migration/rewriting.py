"""Makes of the events of the next worker those of the stream that has begun."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

NAMES = ("id", "request_id", "created", "model")
"""Fields that all events of a stream have in common."""


class Seam(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent of a stream before the next worker carries it on.

    `names` are the fields that all events have in common. `sampled` tokens with `characters` of
    text came after `prompt` tokens of the prompt. `changes_api`: the stream is one of chat, and the
    next worker's events are those of completions; `alternatives` to each token were asked for.
    """

    names: Mapping[str, Any]
    prompt: int
    sampled: int
    characters: int
    changes_api: bool
    alternatives: int

    def joined(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Return the event as a part of the stream that has begun; None if that has it already."""
        choices = [one for one in event.get("choices") or () if isinstance(one, dict)]
        if self.names and _begins_a_chat(choices):
            return None
        for choice in choices:
            self._join(choice)
        event |= {name: value for name, value in self.names.items() if name in event}
        if self.changes_api:
            event["object"] = "chat.completion.chunk"
            event["choices"] = [_of_chat(choice, self.alternatives) for choice in choices]
        if self.names and "prompt_token_ids" in event:
            del event["prompt_token_ids"]
        if self.sampled and isinstance(event.get("usage"), dict):
            event["usage"] = self.usage(event["usage"])
        return event

    def _join(self, choice: dict[str, Any]) -> None:
        if self.names and choice.get("prompt_token_ids") is not None:
            choice["prompt_token_ids"] = None
        scores = choice.get("logprobs")
        if isinstance(scores, dict) and isinstance(places := scores.get("text_offset"), list):
            scores["text_offset"] = [place + self.characters for place in places]
        spans = choice.get("weight_versions")
        if isinstance(spans, list):
            choice["weight_versions"] = [_shifted(span, self.sampled) for span in spans]

    def usage(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Return the usage of the whole stream: the prompt once, and the tokens of all workers."""
        completion = told.get("completion_tokens")
        sampled = self.sampled + (completion if isinstance(completion, int) else 0)
        counts = {"prompt_tokens": self.prompt, "total_tokens": self.prompt + sampled}
        made = {**told, **counts, "completion_tokens": sampled}
        if "prompt_tokens_details" in made:
            made["prompt_tokens_details"] = None  # the cache of the next worker holds the seam, too
        return made


def _begins_a_chat(choices: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an event does nothing but begin a message."""
    deltas = [choice.get("delta") for choice in choices]
    return any(
        isinstance(delta, dict) and delta.get("role") and not any(map(delta.get, CONTENT))
        for delta in deltas
    ) and not any(choice.get("token_ids") or choice.get("finish_reason") for choice in choices)


CONTENT = ("content", "reasoning", "reasoning_content", "tool_calls")
"""Fields of a delta that add something to a message."""


def _shifted(span: Any, tokens: int) -> Any:
    if not isinstance(span, dict):
        return span
    places = {name: span[name] for name in ("start", "end") if isinstance(span.get(name), int)}
    return {**span, **{name: place + tokens for name, place in places.items()}}


def _of_chat(choice: Mapping[str, Any], alternatives: int) -> dict[str, Any]:
    """Return the choice of an event of completions as chat has it."""
    finish = choice.get("finish_reason")
    made = {
        "index": choice.get("index", 0),
        "delta": {"content": choice.get("text") or ""},
        "logprobs": _chat_logprobs(choice.get("logprobs"), alternatives),
        "finish_reason": finish,
    }
    if finish is not None:
        made["stop_reason"] = choice.get("stop_reason")
    return {**made, "token_ids": choice.get("token_ids")}


def _chat_logprobs(scores: Any, alternatives: int) -> dict[str, Any] | None:
    if not isinstance(scores, dict):
        return None
    tokens, values = scores.get("tokens") or [], scores.get("token_logprobs") or []
    tops = scores.get("top_logprobs") or [None] * len(tokens)
    return {
        "content": [
            {**_entry(token, value), "top_logprobs": _tops(top)[:alternatives]}
            for token, value, top in zip(tokens, values, tops, strict=False)
        ]
    }


def _tops(top: Any) -> list[dict[str, Any]]:
    return [_entry(*one) for one in top.items()] if isinstance(top, dict) else []


def _entry(token: Any, logprob: Any) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(str(token).encode())}
