"""Responses of vLLM's /inference/v1/generate.

Each choice has its sampled ids, with the versions of the weights that sampled them. A logprob names
its token by the id in the mode `tokens`, and by its text in the mode `text`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway_plugins.trace_capture.answers.assembled import Extra, Part
from gateway_plugins.trace_capture.answers.deltas import joined
from gateway_plugins.trace_capture.answers.openai.formats import Form, checked_content
from gateway_plugins.trace_capture.answers.openai.numbers import (
    Numbers,
    chain_lists,
    compare_counts,
    pack_part,
)
from gateway_plugins.trace_capture.answers.openai.structs import (
    AnswerFields,
    Choice,
    MaybeAny,
    PlainAnswer,
    TokenId,
)


class _Token(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A token with its logprob, and how it is named; `rank` is 1 for the likeliest."""

    logprob: float | None
    token_id: TokenId | UnsetType = UNSET
    rank: int | UnsetType | None = UNSET
    token: str | UnsetType = UNSET
    bytes: list[int] | UnsetType | None = UNSET


class _Sampled(_Token, gc=False, forbid_unknown_fields=True):
    top_logprobs: list[_Token] | UnsetType | None = UNSET


class GenerateLogprobs(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Logprobs of a choice; the lenient way leaves dicts in `content`."""

    content: list[_Sampled] | UnsetType | None = UNSET


class GenerateChoice(Choice, gc=False, forbid_unknown_fields=True):
    """A choice, plain or streamed."""

    text: str | UnsetType | None = UNSET
    logprobs: GenerateLogprobs | UnsetType | None = UNSET
    sampling_mask: MaybeAny = UNSET
    weight_versions: MaybeAny = UNSET


class _Plain(PlainAnswer, gc=False, forbid_unknown_fields=True, kw_only=True):
    choices: list[GenerateChoice]
    request_id: str | UnsetType | None = UNSET
    output_mode: str | UnsetType | None = UNSET
    prompt_token_id_logprobs: MaybeAny = UNSET
    mm_placeholders: MaybeAny = UNSET


class _Event(AnswerFields, gc=False, forbid_unknown_fields=True):
    choices: list[GenerateChoice] = msgspec.field(default_factory=list)
    request_id: str | UnsetType | None = UNSET
    output_mode: str | UnsetType | None = UNSET


class _Scored(msgspec.Struct, gc=False):
    """The fields of an entry that a `Part` holds, of one with unknown fields."""

    logprob: float | None
    token: str | None = None


def _part(chunks: Sequence[GenerateChoice], index: int, prompt: list[int]) -> Part:
    """Return the part of one choice; a plain choice is its only chunk."""
    numbers = Numbers(index, prompt, chain_lists([chunk.token_ids for chunk in chunks]))
    extra = Extra()
    lists = [chunk.logprobs.content if chunk.logprobs else None for chunk in chunks]
    entries: list[Any] = chain_lists(lists)
    if entries:
        _take(numbers, extra, entries)
        if len(chunks) > 1:
            compare_counts(numbers, lists, chunks)
    return pack_part(numbers, extra, chunks)


def _take(numbers: Numbers, extra: Extra, entries: list[Any]) -> None:
    if isinstance(entries[0], dict):
        extra.content = [_rest(entry) for entry in entries]
        entries = msgspec.convert(entries, list[_Scored])
    else:
        if any(map(_is_other, entries, numbers.ids)):
            numbers.counts_differ = True
        extra.ranks = _ranks(entries)
        if extra.ranks is None:
            extra.content = [_rest(entry) for entry in msgspec.to_builtins(entries)]
    numbers.logprobs = [entry.logprob for entry in entries]
    texts = [entry.token for entry in entries]
    if all(isinstance(text, str) for text in texts):
        numbers.tokens = texts


def _is_other(entry: _Sampled, token_id: int) -> bool:
    """Whether the entry tells of another token than was sampled in its place."""
    return entry.token_id is not UNSET and entry.token_id != token_id


def _ranks(entries: list[_Sampled]) -> list[int] | None:
    """Return the ranks if each entry tells them and, of other tokens, nothing; else None."""
    ranks = [one.rank for one in entries if isinstance(one.rank, int) and _is_alone(one)]
    return ranks if len(ranks) == len(entries) else None


def _is_alone(entry: _Sampled) -> bool:
    """Whether the entry names its token by the id alone, and no other token."""
    own = _Token(entry.logprob, entry.token_id, entry.rank)
    named = isinstance(entry.token_id, int) and entry.token is UNSET and entry.bytes is UNSET
    return named and entry.top_logprobs == [own]


def _rest(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("token", "logprob")}


def _settle(chunks: Sequence[GenerateChoice]) -> tuple[dict[str, Any], bool]:
    texts = [chunk.text for chunk in chunks if isinstance(chunk.text, str)]
    return ({"text": joined(texts)} if texts else {}), False


def _lenient_logprobs(scores: Mapping[str, Any]) -> GenerateLogprobs:
    return GenerateLogprobs(checked_content(scores))


GENERATE = Form(
    "",
    msgspec.json.Decoder(_Plain).decode,
    msgspec.json.Decoder(list[_Event]).decode,
    _Event,
    GenerateChoice,
    GenerateChoice,
    ("prompt_token_ids", "prompt_logprobs"),
    ("token_ids",),
    ("content",),
    _lenient_logprobs,
    _part,
    _settle,
    first=("request_id", "output_mode"),
    of_choice=("sampling_mask", "weight_versions"),
)
