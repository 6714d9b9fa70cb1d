"""A response of any API, taken apart: the numbers of each choice, and the rest as a skeleton."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from gateway import Reason
from gateway_plugins.trace_capture.codec import unpack_ids, unpack_logprobs, unpack_texts

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""Exceptions that decoding, converting or encoding foreign JSON can raise."""

UNKNOWN_LOGPROB = -9999.0
"""What vLLM and OpenAI send in place of minus infinity or of a value that they do not have."""

MAX_LOGPROB = 1e-3
"""A probability of 1, plus what an engine may round up."""


class Part(msgspec.Struct, dict=True):
    """The numbers of one choice, which are kept apart from its response's skeleton.

    They are packed as they are stored; those who want lists get the same ones each time, with
    logprobs as float32. `packed_tokens` are the engine's texts of the token ids, None if there are
    no texts. `extra` is JSON (of `Extra`) of values that cannot be derived from the other fields,
    b"" in the common case. Parts have the order of the response's choices. `doubts` are reasons
    that show in a stream's events alone; `are_logprobs`: all are logarithms of probabilities. These
    two are not stored with the part.
    """

    index: int
    packed_prompt: bytes = b""
    packed_ids: bytes = b""
    packed_logprobs: bytes = b""
    packed_tokens: bytes | None = None
    extra: bytes = b""
    finish_reason: str | None = None
    doubts: list[Reason] = []
    are_logprobs: bool = True

    @cached_property
    def prompt_token_ids(self) -> list[int]:
        return unpack_ids(self.packed_prompt)

    @cached_property
    def token_ids(self) -> list[int]:
        return unpack_ids(self.packed_ids)

    @cached_property
    def logprobs(self) -> list[float | None]:
        return unpack_logprobs(self.packed_logprobs)

    @cached_property
    def tokens(self) -> list[str] | None:
        return None if self.packed_tokens is None else unpack_texts(self.packed_tokens)


def are_logprobs(values: Sequence[float | None]) -> bool:
    """Whether all are logarithms of probabilities, as far as a number can tell."""
    known = [value for value in values if value is not None]
    if None in values or not all(map(math.isfinite, known)):
        return False
    return not known or (min(known) > UNKNOWN_LOGPROB and max(known) <= MAX_LOGPROB)


def share_prompts(parts: Sequence[Part]) -> None:
    """Give choices of one prompt the same list: a hook that changes it changes it for all."""
    for part in parts[1:]:
        if part.packed_prompt is parts[0].packed_prompt:
            part.prompt_token_ids = parts[0].prompt_token_ids


class Extra(msgspec.Struct, omit_defaults=True):
    """The numbers of a choice for which a `Part` has no field.

    `logprobs` are set only if float32 would change them. `content` has, for each token of a chat
    response, the fields other than `token` and `logprob`. The next four are a completion's lists as
    they came. `ranks`: the entries of generate have the id, the rank and no other token.
    """

    logprobs: list[float | None] | None = None
    content: list[dict[str, Any]] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    text_offset: list[Any] | None = None
    top_logprobs: list[Any] | None = None
    prompt_logprobs: list[Any] | None = None
    ranks: list[int] | None = None


class Assembled(msgspec.Struct, kw_only=True):
    """A response in the form of a plain one, with its numbers kept apart.

    `skeleton` is a JSON object without token ids and logprobs: if it has an empty list in their
    place, `parts` has the values. `prompt_tokens` and `completion_tokens` are the engine's counts.
    `done`: a stream ended as it should; always true for a plain response. `error` is the message of
    an error event or body. `readable`: every part of the response conforms to its dialect. `events`
    counts a stream's events that have data. `versions_named` are all weight versions in it.
    """

    skeleton: bytes
    response_id: str = ""
    model: str = ""
    parts: list[Part] = []
    usage: dict[str, Any] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    weight_version: int | str | None = None
    versions_named: list[int | str] = []
    streamed: bool = False
    done: bool = True
    error: str | None = None
    readable: bool = True
    events: int = 0
