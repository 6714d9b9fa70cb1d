"""Shapes of a Messages request, as strict as the engine's own; fields of others are passed over."""

from typing import Any, Literal

import msgspec
from msgspec import Raw

Effort = Literal["low", "medium", "high", "xhigh", "max"]

BlockType = Literal[
    "text",
    "image",
    "tool_use",
    "tool_result",
    "tool_reference",
    "thinking",
    "redacted_thinking",
    "tool_addition",
    "tool_removal",
]

Object = dict[str, Raw]


class Tool(msgspec.Struct):
    name: str
    input_schema: Object
    description: str | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class ToolReference(msgspec.Struct, tag="tool_reference"):
    name: str


class ToolDefinition(msgspec.Struct, tag="tool_definition"):
    definition: Tool


class Block(msgspec.Struct):
    """One block of a content; `type` says which fields matter."""

    type: BlockType
    text: str | None = None
    source: dict[str, Any] | None = None
    id: str | None = None
    tool_use_id: str | None = None
    name: str | None = None
    input: Object | None = None
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None
    tool_name: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    tool: ToolReference | ToolDefinition | None = None


class Message(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(msgspec.Struct):
    type: Literal["json_schema"] = "json_schema"
    schema: Object | None = None


class OutputConfig(msgspec.Struct):
    effort: Effort | None = None
    format: OutputFormat | None = None


Display = Literal["summarized", "omitted", "updates"]


class Thinking(msgspec.Struct, tag="enabled"):
    budget_tokens: int
    display: Display | None = None


class NoThinking(msgspec.Struct, tag="disabled"):
    pass


class AdaptiveThinking(msgspec.Struct, tag="adaptive"):
    display: Display | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """What a request to count tokens has, and one to sample too."""

    model: str
    messages: list[Message]
    output_config: OutputConfig | None = None
    system: str | list[Block] | None = None
    thinking: Thinking | NoThinking | AdaptiveThinking | None = None
    tool_choice: ToolChoice | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: Object | None = None


class Request(CountRequest, kw_only=True):
    max_tokens: int
    thread: Object | None = None
    metadata: Object | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    cache_salt: str | None = None
    watermarking: bool | None = None
    kv_transfer_params: Object | None = None
    ec_transfer_params: Object | None = None
    vllm_xargs: Object | None = None


decode_request = msgspec.json.Decoder(Request).decode
decode_count = msgspec.json.Decoder(CountRequest).decode
