"""Responses of generate as they are read, and responses of chat as they are written."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gateway import is_true

NOTHING = Raw(b"null")

_DERENDERED_ID = re.compile(r"[0-9a-f]{16,32}")


class Logprobs(msgspec.Struct, gc=False):
    """Logprobs of the mode `text`, each as chat has it."""

    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct, gc=False):
    """A choice of generate, plain or in an event. Its text may lag: a stop string may begin."""

    index: int = 0
    text: str = ""
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def parsed_ids(self, *, keeps_stop: bool) -> list[int]:
        """Return the ids without the one that ends the turn: unless kept, it has no text."""
        ids = self.token_ids or []
        ends = self.finish_reason == "stop" and not isinstance(self.stop_reason, str)
        ends = ends and not keeps_stop
        return ids[:-1] if ends else ids


class Generated(msgspec.Struct, gc=False):
    """A plain response of generate, or an event of its stream."""

    choices: list[Choice] = []
    request_id: str = ""
    created: int = 0
    model: str | None = None
    usage: Raw = NOTHING
    error: Raw = NOTHING


class Asked(msgspec.Struct, frozen=True):
    """What the translation of one response depends on.

    `request` is the chat request, and `prompt` the ids of its prompt. `parsed`: the engine makes
    more of an answer than its text; `calls`: it begins with a tool call; `thinks`: it may begin
    with reasoning. `shows_marks`: special tokens are in the text. `alternatives` of each token go
    to the caller; None: no logprobs do.
    """

    request: Mapping[str, Any]
    prompt: list[int]
    parsed: bool
    calls: bool
    thinks: bool
    shows_marks: bool
    alternatives: int | None
    returns_ids: bool
    model: str | None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self._stream_option("include_usage")

    @property
    def wants_running_usage(self) -> bool:
        """Whether each event of a stream has the usage so far."""
        return self.wants_usage and self._stream_option("continuous_usage_stats")

    def _stream_option(self, name: str) -> bool:
        options = self.request.get("stream_options")
        return isinstance(options, dict) and is_true(options.get(name))

    def derender(self, **fields: object) -> dict[str, Any]:
        """Return a request to derender, which needs no message of the conversation."""
        chat = {**self.request, "messages": [{"role": "user", "content": ""}], "n": 1}
        chat |= {"logprobs": False, "top_logprobs": None, "stream": False, "stream_options": None}
        asked: dict[str, Any] = {"chat_request": chat, "prompt_token_ids": self.prompt}
        return {**asked, **({"model": self.model} if self.model else {}), **fields}

    def logprobs(self, found: Sequence[Logprobs | None]) -> dict[str, Any] | None:
        """Return the logprobs of several pieces as chat has them."""
        if self.alternatives is None:
            return None
        content = [entry for one in found if one is not None for entry in one.content or ()]
        return {"content": [self._entry(entry) for entry in content]}

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        tops = entry.get("top_logprobs")
        return {**entry, "top_logprobs": tops[: self.alternatives] if tops else []}

    def finish_reason(self, told: str | None, *, called: bool) -> str | None:
        named = isinstance(self.request.get("tool_choice"), dict)
        return "tool_calls" if called and told == "stop" and not named else told


def chat_id(request_id: str) -> str:
    """Return the id of the chat response that the response `request_id` of generate becomes."""
    return "chatcmpl-" + request_id.removeprefix("generate-tokens-").removeprefix("chatcmpl-")


def with_ids(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return tool calls whose ids are as those of chat: derender leaves the beginning out."""
    return [_with_id(call) for call in calls]


def _with_id(call: dict[str, Any]) -> dict[str, Any]:
    given = call.get("id")
    if isinstance(given, str) and _DERENDERED_ID.fullmatch(given):
        return {**call, "id": f"chatcmpl-tool-{given}"}
    return call


decode_answer = msgspec.json.Decoder(Generated).decode
encode = msgspec.json.Encoder().encode
