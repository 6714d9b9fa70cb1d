"""Request bodies, with the fields that the simulator reads; it ignores all others."""

import msgspec


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class StructuredOutputs(msgspec.Struct, frozen=True):
    choice: list[str] | None = None
    json: dict[str, object] | str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    schema: dict[str, object] | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: str
    json_schema: JsonSchema | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that chat and completions share. `model` None is the served one."""

    model: str | None = None
    request_id: str | None = None
    n: int | None = 1
    max_tokens: int | None = None
    min_tokens: int | None = 0
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
    include_stop_str_in_output: bool | None = False
    ignore_eos: bool | None = False
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stream_interval: int | None = None
    return_token_ids: bool | None = False
    return_tokens_as_token_ids: bool | None = False
    structured_outputs: StructuredOutputs | None = None
    response_format: ResponseFormat | None = None
    cache_salt: str | None = None
    priority: int = 0
    thinking_token_budget: int | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct, frozen=True):
    function: CalledFunction


class ContentPart(msgspec.Struct, frozen=True):
    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    role: str | None = None
    content: str | list[ContentPart | str] | None = None
    tool_calls: list[ToolCall] | None = None


class Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None


class Tool(msgspec.Struct, frozen=True):
    function: Function
    type: str = "function"


class FunctionName(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    function: FunctionName


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    include_reasoning: bool = True


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True):
    prompt: str | list[int | str | list[int]] | None = None
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None


class TokenizeRequest(msgspec.Struct, frozen=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False


class DetokenizeRequest(msgspec.Struct, frozen=True):
    tokens: list[int]
    model: str | None = None
