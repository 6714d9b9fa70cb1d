"""Rebuilds a response from its skeleton and its parts."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gateway import TraceChoice, WeightSpan
from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Extra, Part
from gateway_plugins.trace_capture.answers.openai.numbers import offsets_of, sampled_of

_T = TypeVar("_T")

_decode_extra = msgspec.json.Decoder(Extra).decode


class _Choice(msgspec.Struct):
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    matched_stop: int | str | None = None
    routing_matrices: Any = None
    routed_experts: Any = None
    weight_versions: Any = None
    meta_info: Any = None


class _Skeleton(msgspec.Struct):
    choices: list[Any] = []
    prompt_logprobs: Any = None
    metadata: Any = None


def whole(skeleton: bytes, parts: Sequence[Part]) -> dict[str, Any] | None:
    """Return the response in plain form; the JSON equals the engine's if that was plain.

    None if `skeleton` is not a JSON object.
    """
    try:
        answer = msgspec.json.decode(skeleton, type=dict[str, Any])
    except UNREADABLE:
        return None
    choices = answer.get("choices")
    if parts and isinstance(choices, list):
        _fill_prompt(answer, parts[0])
        for choice, part in zip(choices, parts, strict=False):
            if isinstance(choice, dict):
                _fill(choice, part)
    return answer


def choices_of(skeleton: bytes, parts: Sequence[Part]) -> list[TraceChoice]:
    """Return the choices by index; a choice without a part is left out."""
    try:
        answer = msgspec.json.decode(skeleton, type=_Skeleton)
    except UNREADABLE:
        answer = _Skeleton()
    outsides = [*answer.choices, *([None] * len(parts))]
    choices = [_choice(outside, part) for outside, part in zip(outsides, parts, strict=False)]
    if isinstance(answer.metadata, dict) and len(choices) == 1:  # as SGLang has it
        spans = _spans(answer.metadata.get("weight_versions"))
        choices[0].weight_versions = choices[0].weight_versions or spans
    if answer.prompt_logprobs == [] and choices:
        for choice in choices:  # a chat response has one prompt
            choice.prompt_logprobs = choices[0].prompt_logprobs
    return sorted(choices, key=lambda choice: choice.index)


def _choice(outside: object, part: Part) -> TraceChoice:
    try:
        known = msgspec.convert(outside, _Choice)
    except UNREADABLE:
        known = _Choice()
    extra = _extra(part)
    stop = known.stop_reason if known.stop_reason is not None else known.matched_stop
    routing = known.routed_experts if known.routing_matrices is None else known.routing_matrices
    experts, tops = _of_sglang(known.meta_info, len(part.token_ids))
    return TraceChoice(
        index=part.index,
        message=known.message,
        text=known.text,
        prompt_token_ids=part.prompt_token_ids,
        token_ids=part.token_ids,
        logprobs=_or(extra.logprobs, part.logprobs),
        tokens=part.tokens,
        top_logprobs=_top_logprobs(part, extra) or tops,
        prompt_logprobs=extra.prompt_logprobs,
        routing_matrices=experts if routing is None else routing,
        weight_versions=_spans(known.weight_versions),
        finish_reason=known.finish_reason,
        stop_reason=stop,
    )


def _of_sglang(meta: Any, count: int) -> tuple[Any, list[Any] | None]:
    """Return the experts and the alternatives of `count` tokens that SGLang's generate sends.

    Experts that do not begin with the first token are left out, as are alternatives of some tokens.
    """
    if not isinstance(meta, dict):
        return None, None
    tops = meta.get("output_top_logprobs")
    whole = isinstance(tops, list) and len(tops) == count and any(tops)
    experts = None if meta.get("routed_experts_start_len") else meta.get("routed_experts")
    return experts, tops if whole else None


def _spans(told: Any) -> list[WeightSpan] | None:
    try:
        return msgspec.convert(told, list[WeightSpan]) or None
    except UNREADABLE:
        return None


def _extra(part: Part) -> Extra:
    try:
        return _decode_extra(part.extra) if part.extra else Extra()
    except UNREADABLE:
        return Extra()


def _top_logprobs(part: Part, extra: Extra) -> list[Any] | None:
    """Return those of the sampled tokens; None if they add nothing to `logprobs`."""
    if extra.content is not None:
        tops = [entry.get("top_logprobs") for entry in extra.content]
        return tops if any(tops) else None
    tops = extra.top_logprobs or []
    if extra.tokens is not None and len(tops) > len(part.logprobs):
        tops = tops[len(tops) - len(part.logprobs) :]  # without those of an echoed prompt
    return tops or None


def _fill_prompt(answer: dict[str, Any], first: Part) -> None:
    if answer.get("prompt_token_ids") == []:
        answer["prompt_token_ids"] = first.prompt_token_ids
    if answer.get("prompt_logprobs") == []:
        answer["prompt_logprobs"] = _extra(first).prompt_logprobs or []


def _fill(choice: dict[str, Any], part: Part) -> None:
    extra = _extra(part)
    _put(choice, "token_ids", lambda: part.token_ids)
    _put(choice, "prompt_token_ids", lambda: part.prompt_token_ids)
    _put(choice, "prompt_logprobs", lambda: extra.prompt_logprobs or [])
    scores = choice.get("logprobs")
    if isinstance(scores, dict):
        values = _or(extra.logprobs, part.logprobs)
        _fill_scores(scores, part, values, extra)


def _fill_scores(
    scores: dict[str, Any], part: Part, values: list[float | None], extra: Extra
) -> None:
    texts = _or(extra.tokens, part.tokens or [])
    numbers = _or(extra.token_logprobs, values)
    _put(scores, "content", lambda: _entries(part, values, extra))
    _put(scores, "tokens", lambda: texts)
    _put(scores, "token_logprobs", lambda: numbers)
    _put(scores, "text_offset", lambda: _begins(texts, extra))
    _put(scores, "top_logprobs", lambda: _tops(texts, numbers, extra))


def _or(stored: list[_T] | None, derived: list[_T]) -> list[_T]:
    return derived if stored is None else stored


def _put(target: dict[str, Any], key: str, value: Callable[[], list[Any]]) -> None:
    """Set a value that was moved to the parts: an empty list marks its place."""
    if target.get(key) == []:
        target[key] = value()


def _entries(part: Part, values: list[float | None], extra: Extra) -> list[dict[str, Any]]:
    if extra.ranks is not None:
        named = zip(part.token_ids, values, extra.ranks, strict=False)
        own = [{"token_id": id_, "logprob": value, "rank": rank} for id_, value, rank in named]
        return [{**one, "top_logprobs": [one]} for one in own]
    if extra.content is None:
        return [
            {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
            for text, value in zip(part.tokens or [], values, strict=False)
        ]
    if part.tokens is None:
        return [
            {"logprob": value, **rest} for value, rest in zip(values, extra.content, strict=False)
        ]
    return [
        {"token": text, "logprob": value, **rest}
        for text, value, rest in zip(part.tokens, values, extra.content, strict=False)
    ]


def _begins(texts: list[str], extra: Extra) -> list[Any]:
    return offsets_of(texts) if extra.text_offset is None else extra.text_offset


def _tops(texts: list[str], values: list[float | None], extra: Extra) -> list[Any]:
    return sampled_of(texts, values) if extra.top_logprobs is None else extra.top_logprobs
