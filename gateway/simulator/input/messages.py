"""Bodies of Messages requests, as far as the schema checks them; the translation reads the rest."""

from typing import Literal

import msgspec


class Block(msgspec.Struct, frozen=True):
    type: str


class Message(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True):
    name: str
    input_schema: dict[str, object]


class Thinking(msgspec.Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class CountRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    messages: list[Message]
    tools: list[Tool] | None = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    max_tokens: int
    thinking: Thinking | None = None
    stream: bool | None = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
