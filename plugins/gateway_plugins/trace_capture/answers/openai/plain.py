"""Reads plain (not streamed) responses of chat and completions."""

from typing import Any

import msgspec
from msgspec import UNSET

from gateway_plugins.trace_capture.answers import metadata
from gateway_plugins.trace_capture.answers.assembled import Assembled, Part
from gateway_plugins.trace_capture.answers.openai.formats import Form
from gateway_plugins.trace_capture.answers.openai.lenient import numbers_of
from gateway_plugins.trace_capture.answers.openai.numbers import with_prompt_logprobs
from gateway_plugins.trace_capture.answers.openai.sglext import add_ids
from gateway_plugins.trace_capture.answers.openai.structs import PlainAnswer, TokenId

_encode = msgspec.json.Encoder().encode


def read(body: bytes, form: Form) -> Assembled | None:
    """Return the record of a plain response; None if it is JSON but has no list of choices.

    Raises one of UNREADABLE.
    """
    try:
        answer = form.plain(body)
    except msgspec.ValidationError:
        return _read_leniently(msgspec.json.decode(body), form)
    parts = _parts(answer.choices, answer.prompt_token_ids or [], form)
    _add_prompt_logprobs(parts, answer.prompt_logprobs, form)
    for choice in answer.choices:
        _blank(choice, form.choice_lists)
        if choice.logprobs:
            _blank(choice.logprobs, form.logprob_lists)
    if parts:
        _blank(answer, form.answer_lists)
    return _record(answer, parts, form)


def _parts(choices: list[Any], prompt: list[int], form: Form) -> list[Part]:
    return [
        form.part((choice,), number if choice.index is UNSET else choice.index, prompt)
        for number, choice in enumerate(choices)
    ]


def _record(answer: PlainAnswer, parts: list[Part], form: Form) -> Assembled:
    version, named = None, list[int | str]()
    if form.of_choice or answer.weight_version is not UNSET or answer.metadata is not UNSET:
        told = _stamped(answer, form)
        version, named = metadata.weight_version(told), metadata.versions_named(told)
    found = Assembled(
        skeleton=_encode(answer),
        response_id=answer.id or getattr(answer, "request_id", None) or "",
        model=answer.model or "",
        parts=parts,
        weight_version=version,
        versions_named=named,
    )
    metadata.with_usage(found, answer.usage)
    return found


def _stamped(answer: PlainAnswer, form: Form) -> dict[str, Any]:
    """Return what may tell of the version of the weights."""
    choices = [
        {name: getattr(choice, name) for name in form.of_choice}
        for choice in (getattr(answer, "choices", ()) if form.of_choice else ())
    ]
    return {
        "weight_version": answer.weight_version,
        "metadata": answer.metadata,
        "choices": choices,
    }


def _blank(target: Any, names: tuple[str, ...]) -> None:
    """Replace lists that were moved to the parts by empty ones, which mark their place."""
    for name in names:
        if getattr(target, name):
            setattr(target, name, [])


def _read_leniently(answer: Any, form: Form) -> Assembled | None:
    if not isinstance(answer, dict) or not isinstance(choices := answer.get("choices"), list):
        return None
    numbers = [numbers_of(choice, form) for choice in choices]
    prompt = msgspec.convert(answer.get("prompt_token_ids") or [], list[TokenId])
    parts = _parts(numbers, prompt, form)
    _add_prompt_logprobs(parts, answer.get("prompt_logprobs"), form)
    for choice in choices:
        _blank_fields(choice, form.choice_lists)
        if isinstance(scores := choice.get("logprobs"), dict):
            _blank_fields(scores, form.logprob_lists)
    if parts:
        _blank_fields(answer, form.answer_lists)
    record = metadata.assembled(answer)
    add_ids(parts, answer.get("sglext"))
    record.parts = parts
    return record


def _blank_fields(target: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if isinstance(target.get(name), list):
            target[name] = []


def _add_prompt_logprobs(parts: list[Part], values: Any, form: Form) -> None:
    if parts and isinstance(values, list) and values and "prompt_logprobs" in form.answer_lists:
        with_prompt_logprobs(parts[0], values)
