"""Responses of SGLang's /generate: text, sampled ids, and `meta_info` with all else.

A logprob is a tuple: value, token id, text or null. A response is a list if several sequences were
asked for. Each event of a stream repeats what came before, unless the engine was started with
incremental output; the count of the tokens in it tells which. The ids of the prompt are known if
they or their logprobs were asked for, or if the request has them (`with_prompts`).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import NOT_JSON
from gateway_plugins.trace_capture.answers import metadata
from gateway_plugins.trace_capture.answers.assembled import Assembled, Extra, Part, are_logprobs
from gateway_plugins.trace_capture.answers.openai.structs import Index, TokenId
from gateway_plugins.trace_capture.answers.python_json import decoded
from gateway_plugins.trace_capture.answers.sse import DONE, data_of
from gateway_plugins.trace_capture.codec import (
    fits_float32,
    pack_ids,
    pack_logprobs,
    pack_texts,
)

_Scored = tuple[float | None, TokenId, str | None]

_LISTS = ("output_token_logprobs", "input_token_logprobs")


class _End(msgspec.Struct):
    type: str | None = None
    matched: int | str | list[int] | None = None


class _Meta(msgspec.Struct):
    id: str | None = None
    finish_reason: _End | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    output_token_logprobs: list[_Scored] | None = None
    input_token_logprobs: list[_Scored] | None = None
    weight_versions: Any = None


class _Sequence(msgspec.Struct):
    meta_info: _Meta
    text: str = ""
    output_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    index: Index = 0


class _Asked(msgspec.Struct):
    input_ids: list[TokenId | list[TokenId]] | None = None


def read_plain(body: bytes) -> Assembled:
    """Return the record of a plain response. Raises one of UNREADABLE."""
    answer = decoded(body)
    if isinstance(answer, list):
        return _record([[{**one, "index": place}] for place, one in enumerate(answer)])
    if "meta_info" not in answer:
        raise ValueError("this is no response of generate")
    return _record([[answer]])


def read_stream(body: bytes) -> Assembled:
    """Return the record of a stream. Raises one of UNREADABLE."""
    data = data_of(body)
    events = [decoded(one) for one in data if one != DONE]
    chunks: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        if "meta_info" in event:
            chunks.setdefault(event.get("index") or 0, []).append(event)
    record = _record([chunks[index] for index in sorted(chunks)])
    record.streamed, record.events, record.done = True, len(data), len(events) < len(data)
    errors = filter(None, map(metadata.error_message, events))
    record.error = next(errors, None)
    return record


def with_prompts(parts: Sequence[Part], request: bytes, choices: int) -> None:
    """Give the parts the ids of their prompts from the request, with `choices` of each prompt."""
    try:
        ids = msgspec.json.decode(request, type=_Asked).input_ids
    except NOT_JSON:
        return
    for part in parts:
        if ids and not part.packed_prompt:
            prompt: Any = ids
            if isinstance(ids[0], list):
                place = part.index // max(choices, 1)
                prompt = ids[place] if place < len(ids) else []
            part.packed_prompt = pack_ids(prompt)


def _record(sequences: list[list[dict[str, Any]]]) -> Assembled:
    found = [[msgspec.convert(chunk, _Sequence) for chunk in chunks] for chunks in sequences]
    whole = [_joined(chunks) for chunks in found]
    skeleton = [_outside(chunks[-1], one) for chunks, one in zip(sequences, whole, strict=True)]
    record = metadata.assembled({"choices": skeleton})
    record.parts = [_part(one) for one in whole]
    record.response_id = next((one.meta_info.id for one in whole if one.meta_info.id), "")
    counts = [one.meta_info.completion_tokens for one in whole]
    if counts and None not in counts:
        record.completion_tokens = sum(count or 0 for count in counts)
    if len(whole) == 1:
        record.prompt_tokens = whole[0].meta_info.prompt_tokens
    return record


def _joined(chunks: list[_Sequence]) -> _Sequence:
    """Return the sequence of these chunks: the last one, or all of them joined."""
    last = chunks[-1]
    ids = [token for chunk in chunks for token in chunk.output_ids or ()]
    if len(chunks) == 1 or len(ids) != last.meta_info.completion_tokens:
        return last
    scores = [one for chunk in chunks for one in chunk.meta_info.output_token_logprobs or ()]
    first = next((one.meta_info.input_token_logprobs for one in chunks), None)
    meta = msgspec.structs.replace(
        last.meta_info,
        output_token_logprobs=scores or None,
        input_token_logprobs=last.meta_info.input_token_logprobs or first,
    )
    text = "".join([chunk.text for chunk in chunks])
    return msgspec.structs.replace(last, text=text, output_ids=ids, meta_info=meta)


def _outside(chunk: dict[str, Any], whole: _Sequence) -> dict[str, Any]:
    end = whole.meta_info.finish_reason or _End()
    meta = {name: value for name, value in chunk["meta_info"].items() if name not in _LISTS}
    return {
        "index": whole.index,
        "text": whole.text,
        "finish_reason": end.type,
        "stop_reason": None if isinstance(end.matched, list) else end.matched,
        "weight_versions": whole.meta_info.weight_versions,
        "meta_info": meta,
    }


def _part(whole: _Sequence) -> Part:
    meta = whole.meta_info
    scores = meta.output_token_logprobs or []
    named = [token for _, token, _ in scores]
    ids = whole.output_ids or named
    logprobs = [value for value, _, _ in scores]
    texts = [text for _, _, text in scores if text is not None]
    prompt = whole.prompt_token_ids or [token for _, token, _ in meta.input_token_logprobs or ()]
    packed = pack_logprobs(logprobs)
    exact = Extra(logprobs=None if fits_float32(logprobs, packed) else logprobs)
    return Part(
        index=whole.index,
        packed_prompt=pack_ids(prompt if len(prompt) == meta.prompt_tokens else []),
        packed_ids=pack_ids(ids),
        packed_logprobs=packed,
        extra=msgspec.json.encode(exact) if exact.logprobs is not None else b"",
        packed_tokens=pack_texts(texts) if texts and len(texts) == len(ids) else None,
        finish_reason=None if meta.finish_reason is None else meta.finish_reason.type,
        doubts=["counts_differ"] if named and named != ids else [],
        are_logprobs=are_logprobs(logprobs),
    )
