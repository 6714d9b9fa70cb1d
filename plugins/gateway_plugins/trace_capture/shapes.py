"""The structs of a parsed response, and the wire structs that it is decoded with.

The wire structs forbid unknown fields: a response with unknown fields is read by `loose`, which is
slower and keeps them.
"""

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway import TraceChoice

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""Exceptions that decoding, converting or encoding foreign JSON can raise."""

Id: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A token id, limited to the int32 that it is stored as."""

Index: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]

MaybeAny: TypeAlias = Any
"""A field that is kept as it came; UNSET if the engine did not send it."""


class Part(msgspec.Struct, gc=False):
    """The numbers of one choice, which are kept apart from its response's skeleton.

    `tokens` are the engine's texts of `token_ids`. `extra` is JSON (of `Extra`) of values that
    cannot be derived from the other fields, b"" in the common case. Parts have the order of the
    response's choices.
    """

    index: int
    prompt_token_ids: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    tokens: list[str] | None = None
    extra: bytes = b""
    finish_reason: str | None = None


class Extra(msgspec.Struct, omit_defaults=True):
    """The numbers of a choice for which a `Part` has no field.

    `logprobs` are set only if float32 would change them. `content` has, for each token of a chat
    response, the fields other than `token` and `logprob`. The next four are a completion's lists as
    they came.
    """

    logprobs: list[float | None] | None = None
    content: list[dict[str, Any]] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    text_offset: list[Any] | None = None
    top_logprobs: list[Any] | None = None
    prompt_logprobs: list[Any] | None = None


class Assembled(msgspec.Struct, kw_only=True):
    """A response in the form of a plain one, with its numbers kept apart.

    `skeleton` is a JSON object without token ids and logprobs: if it has an empty list in their
    place, `parts` has the values. `completion_tokens` is the engine's count. `done`: a stream ended
    as it should; always true for a plain response. `error` is the message of an error event or
    body. `readable`: every part of the response conforms to its dialect. `events` counts a stream's
    events that have data.
    """

    skeleton: bytes
    response_id: str = ""
    model: str = ""
    parts: list[Part] = []
    usage: dict[str, Any] | None = None
    completion_tokens: int | None = None
    weight_version: int | str | None = None
    streamed: bool = False
    done: bool = True
    error: str | None = None
    readable: bool = True
    events: int = 0

    @property
    def choices(self) -> list[TraceChoice]:
        """Return the choices by index, built anew on each access."""
        from gateway_plugins.trace_capture.whole import choices_of

        return choices_of(self.skeleton, self.parts)


class Entry(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A sampled token in the logprobs of a chat response."""

    token: str
    logprob: float | None
    bytes: list[int] | UnsetType | None = UNSET
    top_logprobs: list[Any] | UnsetType | None = UNSET


class ChatLogprobs(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Logprobs of a chat choice; `content` holds dicts instead of entries if `loose` read them."""

    content: list[Entry] | UnsetType | None = UNSET
    refusal: MaybeAny = UNSET


class CompletionLogprobs(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Parallel lists with one value per token."""

    tokens: list[str] | UnsetType | None = UNSET
    token_logprobs: list[float | None] | UnsetType | None = UNSET
    text_offset: list[Any] | UnsetType | None = UNSET
    top_logprobs: list[Any] | UnsetType | None = UNSET


class Choice(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The fields that choices of chat and completions share, plain and streamed."""

    index: Index | UnsetType = UNSET
    finish_reason: str | UnsetType | None = UNSET
    stop_reason: int | str | UnsetType | None = UNSET
    token_ids: list[Id] | UnsetType | None = UNSET
    matched_stop: MaybeAny = UNSET
    routed_experts: MaybeAny = UNSET


class ChatChoice(Choice, gc=False, forbid_unknown_fields=True):
    message: MaybeAny = UNSET
    logprobs: ChatLogprobs | UnsetType | None = UNSET


class Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A chat delta. Nearly all engines send strings as texts; some send lists of parts."""

    role: str | None = None
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChunk(Choice, gc=False, forbid_unknown_fields=True):
    delta: Delta = msgspec.field(default_factory=Delta)
    logprobs: ChatLogprobs | UnsetType | None = UNSET


class CompletionChoice(Choice, gc=False, forbid_unknown_fields=True):
    """A choice of a completion, plain or streamed."""

    text: str | UnsetType | None = UNSET
    logprobs: CompletionLogprobs | UnsetType | None = UNSET
    prompt_token_ids: list[Id] | UnsetType | None = UNSET
    prompt_logprobs: list[Any] | UnsetType | None = UNSET


class Answer(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The top-level fields of a response, and of an event of a stream."""

    id: str | UnsetType | None = UNSET
    object: str | UnsetType | None = UNSET
    created: int | float | UnsetType | None = UNSET
    model: str | UnsetType | None = UNSET
    usage: dict[str, Any] | UnsetType | None = UNSET
    prompt_token_ids: list[Id] | UnsetType | None = UNSET
    prompt_text: str | UnsetType | None = UNSET
    system_fingerprint: str | UnsetType | None = UNSET
    service_tier: str | UnsetType | None = UNSET


class PlainAnswer(Answer, gc=False, forbid_unknown_fields=True):
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


class ChatEvent(Answer, gc=False, forbid_unknown_fields=True):
    choices: list[ChatChunk] = []


class CompletionEvent(Answer, gc=False, forbid_unknown_fields=True):
    choices: list[CompletionChoice] = []
