"""Shapes of Responses as callers send them; fields that nobody needs are passed over."""

import msgspec
from msgspec import Raw

ABSENT = Raw(b"null")


class Part(msgspec.Struct, gc=False):
    """A part of a content, an output or a summary."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    input_audio: Raw = ABSENT


class Item(msgspec.Struct):
    """One item of an input or a conversation, whatever its type."""

    type: str | None = None
    role: str | None = None
    id: str | None = None
    status: str | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Part] | None = None


class Tool(msgspec.Struct, kw_only=True):
    """A tool of any type; `tools` are those of a namespace."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Raw = ABSENT
    strict: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: Raw = ABSENT
    runs_async: Raw = msgspec.field(name="async", default=ABSENT)
    output_schema: Raw = ABSENT
    format: Raw = ABSENT
    tools: list[Raw] | None = None


class ToolChoice(msgspec.Struct):
    """A choice that is an object."""

    type: str
    name: str | None = None


class Format(msgspec.Struct, gc=False):
    """The format of a text: `schema` is a JSON schema."""

    type: str = "text"
    name: str | None = None
    schema: Raw = ABSENT
    description: str | None = None
    strict: bool | None = None


class Text(msgspec.Struct, gc=False):
    format: Format | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct, gc=False):
    context: str | None = None
    effort: str | None = None
    generate_summary: str | None = None
    mode: str | None = None
    summary: str | None = None


class Named(msgspec.Struct, gc=False):
    id: str


class Request(msgspec.Struct, kw_only=True):
    """A request, fields of vLLM's own among them.

    Fields of type Raw are passed on or echoed as they came.
    """

    input: str | list[Item] = msgspec.field(default_factory=list)
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: Raw = ABSENT
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | Named | None = None
    request_id: str | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    parallel_tool_calls: bool | None = None
    prompt: Raw = ABSENT
    reasoning: Reasoning | None = None
    text: Text | None = None
    tools: list[Raw] | None = None
    tool_choice: str | ToolChoice | None = None
    top_logprobs: int | None = None
    truncation: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    include_reasoning: bool = True
    watermarking: bool | None = None
    logit_bias: Raw = ABSENT
    priority: int | None = None
    session_id: str | None = None
    cache_salt: str | None = None
    media_io_kwargs: Raw = ABSENT
    mm_processor_kwargs: Raw = ABSENT
    chat_template_kwargs: Raw = ABSENT
    structured_outputs: Raw = ABSENT
    vllm_xargs: Raw = ABSENT
    enable_response_messages: bool = False
    previous_input_messages: Raw = ABSENT
    kv_transfer_params: Raw = ABSENT
    ec_transfer_params: Raw = ABSENT

    @property
    def wants_logprobs(self) -> bool:
        return self.include is not None and "message.output_text.logprobs" in self.include

    @property
    def wants_sealed_reasoning(self) -> bool:
        return self.include is not None and "reasoning.encrypted_content" in self.include


decode = msgspec.json.Decoder(Request).decode
decode_tool = msgspec.json.Decoder(Tool).decode
