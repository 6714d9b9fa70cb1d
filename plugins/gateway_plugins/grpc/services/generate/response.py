"""What a worker says of a chat or of a completion: one event of a stream, or all at once.

vLLM's fields, OpenAI's, and those in which other engines put the same: ids beside the logprobs
(llama.cpp), in a field of the provider's (LiteLLM), the match of a stop string (SGLang).
"""

import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from gateway import NOT_JSON, error_message
from gateway_plugins.grpc.edge.answers import BadAnswer, WorkerError

TokenId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

_NULL = Raw(b"null")

MAX_DEPTH = 64
"""Maximum depth of a response that is no JSON in the strict sense."""


class Ranked(msgspec.Struct, gc=False):
    """One of the likeliest tokens at the place of another one."""

    token: str = ""
    logprob: float | None = None
    bytes: list[int] | None = None
    id: TokenId | None = None


class Entry(Ranked, gc=False):
    """A sampled token."""

    top_logprobs: list[Ranked] | None = None


class Logprobs(msgspec.Struct, gc=False):
    """Those of a chat are in `content`, those of a completion in lists of the same length."""

    content: list[Entry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class ToolCall(msgspec.Struct, gc=False):
    index: Count | None = None
    id: str | None = None
    function: Function | None = None


class Part(msgspec.Struct, gc=False):
    """The `delta` of an event, or the `message` of a plain response."""

    content: Any = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class PromptToken(msgspec.Struct, gc=False):
    """A token at a place of the prompt."""

    logprob: float | None = None
    rank: int | None = None
    decoded_token: str | None = None


PromptLogprobs = list[dict[str, PromptToken] | None]
"""For each token of the prompt, by id: the token itself and the likeliest ones."""


class Choice(msgspec.Struct, gc=False):
    index: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    delta: Part | None = None
    message: Part | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: Any = None
    stop_reason: Any = None
    matched_stop: Any = None
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    provider_specific_fields: Any = None


class OfPrompt(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None


class OfCompletion(msgspec.Struct, gc=False):
    reasoning_tokens: Count | None = None
    accepted_prediction_tokens: Count | None = None


class Tokens(msgspec.Struct, gc=False):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: OfPrompt | None = None
    completion_tokens_details: OfCompletion | None = None


class Response(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Tokens | None = None
    error: Raw = _NULL
    prompt_token_ids: list[TokenId] | None = None
    prompt_logprobs: PromptLogprobs | None = None


_decode = msgspec.json.Decoder(Response).decode


def decode(data: bytes) -> Response:
    """Parse an event, or a plain response. Raises BadAnswer, WorkerError."""
    try:
        found = _decode(data)
    except NOT_JSON:
        found = _repaired(data)
    if found.error is not _NULL and (error := _value(found.error)) is not None:
        raise WorkerError(error_message(error) or "the worker failed")
    if found.choices is None and found.usage is None:
        raise BadAnswer("the worker's response has no choices")
    return found


def _value(data: Raw) -> Any:
    try:
        return msgspec.json.decode(data)
    except NOT_JSON:
        return "the worker failed"


def _repaired(data: bytes) -> Response:
    """Parse what Python's own `json` writes and reads: NaN, infinity, halves of characters."""
    try:
        return msgspec.convert(_sound(json.loads(data), MAX_DEPTH), Response)
    except (ValueError, RecursionError, msgspec.ValidationError):
        raise BadAnswer("the worker's response is not that of a chat or a completion") from None


def _sound(value: Any, depth: int) -> Any:
    """Replace what neither JSON nor UTF-8 has. Raises ValueError if it nests too deep."""
    if not depth:
        raise ValueError
    if isinstance(value, dict):
        return {_sound(name, depth - 1): _sound(one, depth - 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_sound(one, depth - 1) for one in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def text_of(content: Any) -> str:
    """Return the text of a part's content, which some engines send as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [one.get("text") for one in content if isinstance(one, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return ""


def ids_of(choice: Choice) -> list[int] | None:
    """Return the ids of the sampled tokens, wherever the engine has put them; None: nowhere."""
    if choice.token_ids is not None:
        return choice.token_ids
    entries = choice.logprobs.content if choice.logprobs is not None else None
    if entries and all(entry.id is not None for entry in entries):
        return [entry.id for entry in entries if entry.id is not None]
    fields = choice.provider_specific_fields
    if isinstance(fields, dict) and fields.get("token_ids"):
        try:
            return msgspec.convert(fields["token_ids"], list[TokenId])
        except msgspec.ValidationError:
            return None
    return None
