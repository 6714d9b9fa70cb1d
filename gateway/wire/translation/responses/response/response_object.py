"""The object of a response: what the caller asked for, echoed, around what came of it.

The fields are vLLM's, and those beside it that OpenAI's have in each response. Where vLLM says null
and OpenAI's type has no null, it has OpenAI's value: `metadata`, `text`, `top_logprobs`.
"""

import time
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from gateway.wire.translation.chat import ENDED_EARLY, GIVEN_UP, Usage
from gateway.wire.translation.responses.errors import Failure
from gateway.wire.translation.responses.request.tools import Toolbox, resolved
from gateway.wire.translation.responses.response.output import new_id
from gateway.wire.translation.responses.structs import (
    Format,
    Named,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolChoice,
    decode_tool,
)


class _InputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int
    input_tokens_per_turn: tuple[()] = ()
    cached_tokens_per_turn: tuple[()] = ()


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int
    tool_output_tokens: int = 0
    output_tokens_per_turn: tuple[()] = ()
    tool_output_tokens_per_turn: tuple[()] = ()


class _Usage(msgspec.Struct):
    input_tokens: int
    input_tokens_details: _InputDetails
    output_tokens: int
    output_tokens_details: _OutputDetails
    total_tokens: int


class _Incomplete(msgspec.Struct):
    reason: str


class _Function(msgspec.Struct, kw_only=True):
    name: str | None
    parameters: Raw
    strict: bool | None
    type: str
    allowed_callers: Raw
    runs_async: Raw = msgspec.field(name="async")
    defer_loading: bool | None
    description: str | None
    output_schema: Raw


class _Custom(msgspec.Struct, kw_only=True):
    name: str | None
    type: str
    allowed_callers: Raw
    runs_async: Raw = msgspec.field(name="async")
    defer_loading: bool | None
    description: str | None
    format: Raw


_ECHOED: Mapping[str, type[msgspec.Struct]] = {"function": _Function, "custom": _Custom}


class _Namespace(msgspec.Struct, kw_only=True):
    description: str | None
    name: str | None
    tools: list[Raw]
    type: str


class Response(msgspec.Struct, kw_only=True):
    """A response in one of its states, as it is sent and stored."""

    id: str
    created_at: int
    completed_at: int | None = None
    error: Failure | None = None
    incomplete_details: _Incomplete | None = None
    instructions: str | None
    metadata: dict[str, str]
    model: str
    object: str = "response"
    output: Raw = Raw(b"[]")
    parallel_tool_calls: bool
    temperature: float
    tool_choice: str | ToolChoice
    tools: list[Raw]
    top_p: float
    background: bool
    conversation: Named | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    previous_response_id: str | None
    prompt: None = None
    prompt_cache_key: str | None
    reasoning: Reasoning | None
    safety_identifier: str | None
    service_tier: str
    status: str
    store: bool
    text: Raw
    top_logprobs: int
    truncation: str
    usage: _Usage | None = None
    user: str | None
    presence_penalty: float
    frequency_penalty: float
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    input_messages: None = None
    output_messages: None = None


def begun(request: Request, box: Toolbox, *, stored: bool) -> Response:
    """Return the response of `request` as it begins, without its model yet."""
    conversation = request.conversation
    if isinstance(conversation, str):
        conversation = Named(conversation)
    return Response(
        id=request.request_id or new_id("resp").decode(),
        created_at=int(time.time()),
        instructions=request.instructions,
        metadata=request.metadata or {},
        model=request.model or "",
        parallel_tool_calls=request.parallel_tool_calls is not False,
        temperature=1.0 if request.temperature is None else request.temperature,
        tool_choice=_choice(request, box),
        tools=[_echoed(raw, tool) for raw, tool in zip(request.tools or (), box.read, strict=True)],
        top_p=1.0 if request.top_p is None else request.top_p,
        background=bool(request.background),
        conversation=conversation,
        max_output_tokens=request.max_output_tokens,
        max_tool_calls=request.max_tool_calls,
        previous_response_id=request.previous_response_id,
        prompt_cache_key=request.prompt_cache_key,
        reasoning=request.reasoning,
        safety_identifier=request.safety_identifier,
        service_tier=request.service_tier or "auto",
        status="in_progress",
        store=stored,
        text=_text(request.text),
        top_logprobs=(request.top_logprobs or 0) if request.wants_logprobs else 0,
        truncation=request.truncation or "disabled",
        user=request.user,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
    )


def _choice(request: Request, box: Toolbox) -> str | ToolChoice:
    """Return the choice with the name that chat has for the tool, as vLLM tells it."""
    chosen = request.tool_choice
    if isinstance(chosen, ToolChoice) and box.tools:
        return ToolChoice(chosen.type, resolved(chosen, box))
    return (chosen or "auto") if request.tools else "none"


def end_as(response: Response, finish_reason: str | None, usage: Usage | None) -> None:
    """Set the status of `response` by how chat finished, and what it used."""
    response.usage = usage_of(usage)
    if finish_reason in ("length", "content_filter"):
        response.status = "incomplete"
        reason = "max_output_tokens" if finish_reason == "length" else finish_reason
        response.incomplete_details = _Incomplete(reason)
    elif finish_reason is None or finish_reason in GIVEN_UP:
        fail(response, "server_error", ENDED_EARLY)
    else:
        response.status = "completed"
        response.completed_at = int(time.time())


def fail(response: Response, code: str, message: str) -> None:
    """Make `response` one that failed."""
    response.status, response.completed_at = "failed", None
    response.error = Failure(code, message)


def usage_of(usage: Usage | None) -> _Usage | None:
    """Return chat's usage as that of a response."""
    if usage is None:
        return None
    prompt, sampled = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached, reasoning = usage.prompt_tokens_details, usage.completion_tokens_details
    return _Usage(
        input_tokens=prompt,
        input_tokens_details=_InputDetails(
            cached_tokens=(cached and cached.cached_tokens) or 0,
            cache_write_tokens=(cached and cached.created_cache_tokens) or 0,
        ),
        output_tokens=sampled,
        output_tokens_details=_OutputDetails((reasoning and reasoning.reasoning_tokens) or 0),
        total_tokens=prompt + sampled,
    )


def _echoed(raw: Raw, tool: Tool) -> Raw:
    """Return a tool with all fields of its type; one of a type that is not ours as it came."""
    if tool.type == "namespace":
        return Raw(msgspec.json.encode(_namespace(tool)))
    shape = _ECHOED.get(tool.type)
    if shape is None:
        return raw
    return Raw(msgspec.json.encode(msgspec.convert(tool, shape, from_attributes=True)))


def _namespace(tool: Tool) -> _Namespace:
    return _Namespace(
        description=tool.description,
        name=tool.name,
        tools=[_echoed(raw, decode_tool(raw)) for raw in tool.tools or ()],
        type=tool.type,
    )


def _text(text: Text | None) -> Raw:
    format_ = (text and text.format) or Format()
    verbosity = text.verbosity if text else None
    if format_.type == "json_schema":
        return Raw(msgspec.json.encode(Text(format_, verbosity)))
    named = {"format": {"type": format_.type}, "verbosity": verbosity}
    return Raw(msgspec.json.encode(named))
