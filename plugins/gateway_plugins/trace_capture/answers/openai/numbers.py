"""Extracts the numbers of a choice from its plain form or from its chunks of a stream."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

import msgspec
from msgspec import UNSET

from gateway_plugins.trace_capture.answers.assembled import Extra, Part, are_logprobs
from gateway_plugins.trace_capture.answers.openai.structs import (
    ChatChoice,
    ChatChunk,
    CompletionChoice,
    CompletionLogprobs,
    TokenId,
)
from gateway_plugins.trace_capture.codec import (
    fits_float32,
    pack_ids,
    pack_logprobs,
    pack_texts,
)

_NOTHING = Extra()
_GOES_ON = (UNSET, None, "", "null")
"""Finish reasons of a choice that goes on; some engines send the word."""

_encode = msgspec.json.Encoder().encode


class Numbers(msgspec.Struct, gc=False):
    """The numbers of a choice as lists, until they are packed."""

    index: int
    prompt: list[int]
    ids: list[int]
    logprobs: list[float | None] = []
    tokens: list[str] | None = None
    counts_differ: bool = False


class _Scored(msgspec.Struct, gc=False):
    """The fields of an entry that a `Part` holds; other fields are ignored."""

    token: str
    logprob: float | None
    id: Any = None


def chat_part(
    chunks: Sequence[ChatChoice] | Sequence[ChatChunk], index: int, prompt: list[int]
) -> Part:
    """Return the part of one chat choice; a plain choice is its only chunk."""
    own = [chunk.prompt_token_ids for chunk in chunks if chunk.prompt_token_ids]
    prompt = own[0] or [] if own else prompt
    numbers = Numbers(index, prompt, chain_lists([chunk.token_ids for chunk in chunks]))
    extra = Extra()
    _take_entries(numbers, extra, chunks)
    return pack_part(numbers, extra, chunks)


def completion_part(chunks: Sequence[CompletionChoice], index: int, prompt: list[int]) -> Part:
    """Return the part of one choice of a completion; a plain choice is its only chunk."""
    del prompt  # completions have their prompt in the choice
    numbers = Numbers(
        index,
        chain_lists([chunk.prompt_token_ids for chunk in chunks]),
        chain_lists([chunk.token_ids for chunk in chunks]),
    )
    extra = Extra()
    scores = [chunk.logprobs for chunk in chunks if chunk.logprobs]
    if any(score.content for score in scores):
        _take_entries(numbers, extra, chunks)
    elif scores and not _take_scores(numbers, extra, scores):
        values = [chunk.logprobs.token_logprobs if chunk.logprobs else None for chunk in chunks]
        if len(chunks) > 1:
            compare_counts(numbers, values, chunks)
    extra.prompt_logprobs = chain_lists([chunk.prompt_logprobs for chunk in chunks]) or None
    return pack_part(numbers, extra, chunks)


def with_prompt_logprobs(part: Part, values: list[Any]) -> None:
    """Add the prompt logprobs, which a chat response has once for all its choices."""
    extra = msgspec.json.decode(part.extra, type=Extra) if part.extra else Extra()
    extra.prompt_logprobs = values
    part.extra = _encode(extra)


def chain_lists(lists: Sequence[Any]) -> list[Any]:
    """Concatenate lists, some of which may be null or absent."""
    if len(lists) == 1:
        return lists[0] or []
    return list(chain.from_iterable(filter(None, lists)))


def _take_entries(numbers: Numbers, extra: Extra, chunks: Sequence[Any]) -> None:
    """Add logprobs with one entry for each token, as all chats have them.

    The ids are also in the entries of llama.cpp; they count if the choice has no others.
    """
    lists = [chunk.logprobs.content if chunk.logprobs else None for chunk in chunks]
    entries = chain_lists(lists)
    if not entries:
        return
    if isinstance(entries[0], dict):
        entries = _lenient_entries(entries, extra)
    numbers.tokens = texts = [entry.token for entry in entries]
    numbers.logprobs = [entry.logprob for entry in entries]
    if extra.content is None and not _is_regular(entries, texts):
        extra.content = [_rest(entry) for entry in msgspec.to_builtins(entries)]
    if numbers.ids:
        if len(chunks) > 1:
            compare_counts(numbers, lists, chunks)
    elif extra.content is not None:
        numbers.ids = _ids([entry.id for entry in entries])


def _ids(values: list[Any]) -> list[int]:
    """Return the token ids; none if one of the values is not an id."""
    try:
        ids: list[int] = msgspec.convert(values, list[TokenId])
    except msgspec.ValidationError:
        return []
    return ids


def compare_counts(numbers: Numbers, logprobs: Sequence[Any], chunks: Sequence[Any]) -> None:
    """Doubt lists of equal length if an event has ids without their logprobs, or the reverse."""
    if len(numbers.ids) == len(numbers.logprobs):
        ids = [chunk.token_ids or () for chunk in chunks]
        values = [value or () for value in logprobs]
        numbers.counts_differ = list(map(len, ids)) != list(map(len, values))


def pack_part(numbers: Numbers, extra: Extra, chunks: Sequence[Any]) -> Part:
    """Return the part of a choice that came in `chunks`, which tell its finish reason."""
    packed = pack_logprobs(numbers.logprobs)
    if not fits_float32(numbers.logprobs, packed):
        extra.logprobs = numbers.logprobs
    reasons = (chunk.finish_reason for chunk in reversed(chunks))
    return Part(
        index=numbers.index,
        packed_prompt=pack_ids(numbers.prompt),
        packed_ids=pack_ids(numbers.ids),
        packed_logprobs=packed,
        packed_tokens=None if numbers.tokens is None else pack_texts(numbers.tokens),
        extra=_encode(extra) if extra != _NOTHING else b"",
        finish_reason=next((reason for reason in reasons if reason not in _GOES_ON), None),
        doubts=["counts_differ"] if numbers.counts_differ else [],
        are_logprobs=are_logprobs(numbers.logprobs),
    )


def _is_regular(entries: list[Any], texts: list[str]) -> bool:
    """Whether each entry's `bytes` are its text in UTF-8, with empty `top_logprobs` and no id."""
    if [entry.top_logprobs for entry in entries] != [[]] * len(entries):
        return False
    if [entry.id for entry in entries] != [UNSET] * len(entries):
        return False
    joined = "".join(texts)
    sizes = map(len, texts if joined.isascii() else map(str.encode, texts))
    lists = [entry.bytes for entry in entries]
    try:
        same = bytes(chain.from_iterable(lists)) == joined.encode()
        return same and list(map(len, lists)) == list(sizes)
    except (TypeError, ValueError):  # null or absent, or a number that is not a byte
        return False


def _lenient_entries(entries: list[Any], extra: Extra) -> list[_Scored]:
    scored = msgspec.convert(entries, list[_Scored])
    extra.content = [_rest(entry) for entry in entries]
    return scored


def _rest(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("token", "logprob")}


def _take_scores(numbers: Numbers, extra: Extra, scores: list[CompletionLogprobs]) -> bool:
    """Add the logprobs of a completion; return whether the prompt's were among them."""
    texts: list[str] = chain_lists([score.tokens for score in scores])
    values: list[float | None] = chain_lists([score.token_logprobs for score in scores])
    # With `echo`, the values of the prompt come first.
    echoed = len(numbers.prompt)
    echoes = echoed > 0 and len(values) == echoed + len(numbers.ids)
    if echoes or len(texts) != len(values):
        extra.tokens, extra.token_logprobs = texts, values
    if _has_list(score.text_offset for score in scores):
        offsets = chain_lists([score.text_offset for score in scores])
        extra.text_offset = None if offsets == offsets_of(texts) else offsets
    if _has_list(score.top_logprobs for score in scores):
        tops = chain_lists([score.top_logprobs for score in scores])
        extra.top_logprobs = None if tops == sampled_of(texts, values) else tops
    numbers.logprobs = values[echoed:] if echoes else values
    if len(texts) == len(values):
        numbers.tokens = texts[echoed:] if echoes else texts
    return echoes


def _has_list(values: Iterable[object]) -> bool:
    return any(isinstance(value, list) for value in values)


def offsets_of(texts: list[str]) -> list[int]:
    """Return the offset in characters of each token in the text of a completion."""
    return [0, *accumulate(map(len, texts))][:-1]


def sampled_of(texts: list[str], values: list[float | None]) -> list[dict[str, float | None]]:
    """Return a completion's `top_logprobs` if only the sampled tokens were requested."""
    return [{text: value} for text, value in zip(texts, values, strict=False)]
