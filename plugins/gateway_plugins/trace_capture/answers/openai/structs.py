"""The structs of a parsed response, and the wire structs that it is decoded with.

The wire structs forbid unknown fields: a response with unknown fields is read by lenient.py, which
is slower and keeps them.
"""

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A token id, limited to the int32 that it is stored as."""

Index: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]

MaybeAny: TypeAlias = Any
"""A field that is kept as it came; UNSET if the engine did not send it."""


class TokenLogprob(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A sampled token in the logprobs of a chat response."""

    token: str
    logprob: float | None
    bytes: list[int] | UnsetType | None = UNSET
    top_logprobs: list[Any] | UnsetType | None = UNSET
    id: TokenId | UnsetType | None = UNSET


class ChatLogprobs(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Logprobs of a chat choice; lenient.py leaves dicts in `content`."""

    content: list[TokenLogprob] | UnsetType | None = UNSET
    refusal: MaybeAny = UNSET


class CompletionLogprobs(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Parallel lists with one value per token; llama.cpp has a chat's `content` in their place."""

    tokens: list[str] | UnsetType | None = UNSET
    token_logprobs: list[float | None] | UnsetType | None = UNSET
    text_offset: list[Any] | UnsetType | None = UNSET
    top_logprobs: list[Any] | UnsetType | None = UNSET
    content: list[dict[str, Any]] | UnsetType | None = UNSET


class Choice(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The fields that choices of chat and completions share, plain and streamed."""

    index: Index | UnsetType = UNSET
    finish_reason: str | UnsetType | None = UNSET
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[TokenId] | UnsetType | None = UNSET
    matched_stop: MaybeAny = UNSET
    routed_experts: MaybeAny = UNSET


class ChatChoice(Choice, gc=False, forbid_unknown_fields=True):
    """SGLang has the ids of the prompt in the choice."""

    message: MaybeAny = UNSET
    prompt_token_ids: list[TokenId] | UnsetType | None = UNSET
    logprobs: ChatLogprobs | UnsetType | None = UNSET


class ChatDelta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A chat delta. Nearly all engines send strings as texts; some send lists of parts."""

    role: str | None = None
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChunk(Choice, gc=False, forbid_unknown_fields=True):
    prompt_token_ids: list[TokenId] | UnsetType | None = UNSET
    delta: ChatDelta = msgspec.field(default_factory=ChatDelta)
    logprobs: ChatLogprobs | UnsetType | None = UNSET


class CompletionChoice(Choice, gc=False, forbid_unknown_fields=True):
    """A choice of a completion, plain or streamed."""

    text: str | UnsetType | None = UNSET
    logprobs: CompletionLogprobs | UnsetType | None = UNSET
    prompt_token_ids: list[TokenId] | UnsetType | None = UNSET
    prompt_logprobs: list[Any] | UnsetType | None = UNSET


class AnswerFields(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The top-level fields of a response, and of an event of a stream."""

    id: str | UnsetType | None = UNSET
    object: str | UnsetType | None = UNSET
    created: int | float | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    usage: dict[str, Any] | UnsetType | None = UNSET
    prompt_token_ids: list[TokenId] | UnsetType | None = UNSET
    prompt_text: str | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType | None = UNSET
    service_tier: str | UnsetType | None = UNSET


class PlainAnswer(AnswerFields, gc=False, forbid_unknown_fields=True):
    prompt_logprobs: list[Any] | UnsetType | None = UNSET
    kv_transfer_params: MaybeAny = UNSET
    ec_transfer_params: MaybeAny = UNSET
    metrics: MaybeAny = UNSET
    metadata: MaybeAny = UNSET
    weight_version: MaybeAny = UNSET


class PlainChat(PlainAnswer, gc=False, forbid_unknown_fields=True, kw_only=True):
    choices: list[ChatChoice]


class PlainCompletion(PlainAnswer, gc=False, forbid_unknown_fields=True, kw_only=True):
    choices: list[CompletionChoice]


class ChatEvent(AnswerFields, gc=False, forbid_unknown_fields=True):
    choices: list[ChatChunk] = []


class CompletionEvent(AnswerFields, gc=False, forbid_unknown_fields=True):
    choices: list[CompletionChoice] = []
