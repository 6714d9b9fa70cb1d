"""A request of Responses as one of chat, as vLLM makes it inside."""

from collections.abc import Sequence

import msgspec

from gateway.errors import NOT_JSON
from gateway.wire import surrogates
from gateway.wire.translation import chat
from gateway.wire.translation.responses.request.items import continues, messages_of
from gateway.wire.translation.responses.request.tools import Toolbox, choice
from gateway.wire.translation.responses.structs import ABSENT, Format, Item, Request, decode
from gateway.wire.translation.translation import Untranslatable

_ALONE = (
    ("prompt", "the gateway keeps no prompts"),
    ("previous_input_messages", "they are in the format of one family of models"),
    ("kv_transfer_params", "it is between engines"),
    ("ec_transfer_params", "it is between engines"),
)
"""Fields with which a request is left to the engine."""

_SAME = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "include_reasoning",
    "watermarking",
    "logit_bias",
    "priority",
    "session_id",
    "cache_salt",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "chat_template_kwargs",
    "structured_outputs",
    "vllm_xargs",
    "service_tier",
    "prompt_cache_key",
    "safety_identifier",
    "user",
)
"""Fields that mean the same in chat."""


class _Schema(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    description: str | None = None
    strict: bool | None = None


class _Format(msgspec.Struct, omit_defaults=True, kw_only=True):
    type: str
    json_schema: _Schema | None = None


def read(body: bytes) -> Request:
    """Return the request in `body`; halves of surrogate pairs are read as U+FFFD.

    Raises Untranslatable.
    """
    if surrogates.may_have_half(body):
        body = surrogates.readable(body)
    try:
        return decode(body)
    except NOT_JSON as error:
        raise Untranslatable(f"it is no request of Responses: {error}", invalid=True) from None


def as_chat(request: Request, box: Toolbox, history: Sequence[Item] = ()) -> chat.Request:
    """Return the chat request; `history` are the items before the input. Raises Untranslatable."""
    _check(request)
    items = _items(request, history)
    made = chat.Request(messages=_messages(request, items))
    _copy(request, made)
    _set_tools(request, box, made)
    _set_output(request, made)
    if continues(items):
        made.continue_final_message, made.add_generation_prompt = True, False
    if request.truncation == "auto":
        made.truncate_prompt_tokens = -1
    return made


def _copy(request: Request, made: chat.Request) -> None:
    """Copy what chat calls by the same name."""
    for name in _SAME:
        value = getattr(request, name)
        if isinstance(value, msgspec.Raw):
            value = _given(value)
        if value not in (None, "", []):
            setattr(made, name, value)


def _set_tools(request: Request, box: Toolbox, made: chat.Request) -> None:
    made.tool_choice = choice(request, box)
    if box.tools:
        made.tools = box.tools
        made.parallel_tool_calls = request.parallel_tool_calls


def _set_output(request: Request, made: chat.Request) -> None:
    made.max_completion_tokens = request.max_output_tokens
    made.stream = bool(request.stream)
    if request.stream:
        made.stream_options = chat.StreamOptions(include_usage=True)
    if request.wants_logprobs:
        made.logprobs, made.top_logprobs = True, request.top_logprobs or 0
    if request.text is not None:
        made.response_format = _format(request)
        made.verbosity = request.text.verbosity
    if request.reasoning is not None:
        made.reasoning_effort = request.reasoning.effort


def _check(request: Request) -> None:
    for name, why in _ALONE:
        if bytes(getattr(request, name)) != bytes(ABSENT):
            raise Untranslatable(f"{name} is left to the worker: {why}")
    if request.enable_response_messages:
        raise Untranslatable("enable_response_messages asks for what the worker's own API has")
    if request.truncation not in (None, "auto", "disabled"):
        raise Untranslatable(f"truncation cannot be {request.truncation!r}", invalid=True)


def _items(request: Request, history: Sequence[Item]) -> list[Item]:
    given = request.input
    if isinstance(given, str):
        given = [Item(role="user", content=given)]
    return [*history, *given]


def _messages(request: Request, items: list[Item]) -> list[chat.Message]:
    messages = messages_of(items)
    if request.instructions:
        messages.insert(0, chat.Message(role="system", content=request.instructions))
    if not messages:
        raise Untranslatable("it has no input", invalid=True)
    return messages


def _given(value: msgspec.Raw) -> msgspec.Raw | None:
    return None if bytes(value) == bytes(ABSENT) else value


def _format(request: Request) -> _Format | None:
    format_ = request.text.format if request.text else None
    if format_ is None:
        return None
    if _given(request.structured_outputs) is not None:
        raise Untranslatable("text.format and structured_outputs exclude each other", invalid=True)
    if format_.type == "text":
        return None
    if format_.type == "json_object":
        return _Format(type="json_object")
    if format_.type != "json_schema":
        raise Untranslatable(f"text.format cannot be {format_.type!r}", invalid=True)
    return _Format(type="json_schema", json_schema=_schema(format_))


def _schema(format_: Format) -> _Schema:
    schema = _given(format_.schema)
    return _Schema(
        name=format_.name,
        schema=msgspec.UNSET if schema is None else schema,
        description=format_.description,
        strict=format_.strict,
    )
