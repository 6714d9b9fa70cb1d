"""The calls that are made: one of each kind."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

Api = Literal["chat", "completions", "generate", "messages", "responses"]
Json = dict[str, Any]

PATHS: Mapping[Api, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "generate": "/inference/v1/generate",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}

TURNS = 3
"""Turns of a conversation."""

TRANSLATED: frozenset[Api] = frozenset({"messages", "responses"})

_HELLO = "Say hello in one short sentence."
_SUM = "What is 17 times 23? Think first."
_WEATHER = "What is the weather in Paris? Call the tool get_weather."
_MORE = "And once more, in other words."
_RESULT = '{"city": "Paris", "sky": "clear", "celsius": 21}'

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """`body` is that of the first call, without the model. `turns` are calls of one conversation.

    `thinks`: only models that reason are asked. `calls`: the model is to call a tool.
    """

    name: str
    api: Api
    body: Json
    turns: int = 1
    thinks: bool = False
    calls: bool = False

    @property
    def path(self) -> str:
        return PATHS[self.api]

    @property
    def follows_chat(self) -> bool:
        """Whether a chat must have been answered before, so that it can be asked."""
        return self.thinks or self.api == "generate"


def _chat(
    name: str, text: str, tokens: int, *, turns: int = 1, thinks: bool = False, **more: Any
) -> Kind:
    body = {"messages": [_user(text)], "max_tokens": tokens, "temperature": 0, **more}
    return Kind(name=name, api="chat", body=body, turns=turns, thinks=thinks, calls="tools" in more)


def _user(text: str) -> Json:
    return {"role": "user", "content": text}


def _other(name: str, api: Api, **body: Any) -> Kind:
    return Kind(name=name, api=api, body={"temperature": 0, **body})


def _generate(name: str, **more: Any) -> Kind:
    """Return a generation from token ids: the asker adds `token_ids` of a chat's prompt."""
    params = {"max_tokens": 16, "temperature": 0}
    return Kind(name=name, api="generate", body={"sampling_params": params, **more})


KINDS: Sequence[Kind] = (
    _chat("chat", _HELLO, 64),
    _chat("chat, streamed", _HELLO, 64, stream=True),
    _other("completions", "completions", prompt="Once upon a time", max_tokens=16),
    _other("completions, streamed", "completions", prompt="One day", max_tokens=16, stream=True),
    _chat("tools", _WEATHER, 256, tools=[_TOOL], tool_choice="auto"),
    _chat("tools, streamed", _WEATHER, 256, tools=[_TOOL], tool_choice="auto", stream=True),
    _chat("reasoning", _SUM, 1024, thinks=True),
    _chat("reasoning, streamed", _SUM, 1024, thinks=True, stream=True),
    _chat("n=2", _HELLO, 64, n=2, temperature=1),
    _chat("turns", _HELLO, 64, turns=TURNS, stream=True),
    _chat("turns with tools", _WEATHER, 256, turns=TURNS, tools=[_TOOL], tool_choice="auto"),
    _chat("turns with reasoning", _SUM, 1024, turns=TURNS, thinks=True),
    _generate("generate"),
    _generate("generate, streamed", stream=True),
    _other("messages", "messages", messages=[_user(_HELLO)], max_tokens=64),
    _other("messages, streamed", "messages", messages=[_user(_HELLO)], max_tokens=64, stream=True),
    _other("responses", "responses", input=_HELLO, max_output_tokens=64),
    _other("responses, streamed", "responses", input=_HELLO, max_output_tokens=64, stream=True),
)

NAMES: Sequence[str] = tuple(kind.name for kind in KINDS)


def next_messages(answer: Mapping[str, Any]) -> list[Json]:
    """Return what an agent adds to its messages after an answer: that, and results or a request.

    The answer goes back as it came, its reasoning too, without the fields that are null.
    """
    said = {name: value for name, value in answer.items() if value is not None}
    calls = said.get("tool_calls")
    results = [
        {"role": "tool", "tool_call_id": call.get("id"), "content": _RESULT}
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict)
    ]
    return [said, *(results or [_user(_MORE)])]


def reasons(answer: Mapping[str, Any]) -> bool:
    """Whether an answer has reasoning that the engine tells apart."""
    return bool(answer.get("reasoning") or answer.get("reasoning_content"))
