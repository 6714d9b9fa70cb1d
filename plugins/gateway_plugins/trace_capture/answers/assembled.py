"""A response of any API, taken apart: the numbers of each choice, and the rest as a skeleton."""

from typing import Any

import msgspec

from gateway import Reason

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""Exceptions that decoding, converting or encoding foreign JSON can raise."""


class Part(msgspec.Struct, gc=False):
    """The numbers of one choice, which are kept apart from its response's skeleton.

    `tokens` are the engine's texts of `token_ids`. `extra` is JSON (of `Extra`) of values that
    cannot be derived from the other fields, b"" in the common case. Parts have the order of the
    response's choices. `doubts` are reasons that show in a stream's events alone; they are not
    stored with the part.
    """

    index: int
    prompt_token_ids: list[int] = []
    token_ids: list[int] = []
    logprobs: list[float | None] = []
    tokens: list[str] | None = None
    extra: bytes = b""
    finish_reason: str | None = None
    doubts: list[Reason] = []


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
    place, `parts` has the values. `prompt_tokens` and `completion_tokens` are the engine's counts.
    `done`: a stream ended as it should; always true for a plain response. `error` is the message of
    an error event or body. `readable`: every part of the response conforms to its dialect. `events`
    counts a stream's events that have data.
    """

    skeleton: bytes
    response_id: str = ""
    model: str = ""
    parts: list[Part] = []
    usage: dict[str, Any] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    weight_version: int | str | None = None
    streamed: bool = False
    done: bool = True
    error: str | None = None
    readable: bool = True
    events: int = 0
