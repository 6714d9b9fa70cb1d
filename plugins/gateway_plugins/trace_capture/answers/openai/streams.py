"""Assembles chat and completions streams into the form of plain responses."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers import metadata
from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Assembled, Part
from gateway_plugins.trace_capture.answers.openai.formats import Form
from gateway_plugins.trace_capture.answers.openai.lenient import LenientEvents, UnknownFields
from gateway_plugins.trace_capture.answers.openai.sglext import add_ids
from gateway_plugins.trace_capture.answers.python_json import join_halves
from gateway_plugins.trace_capture.answers.sse import DONE, data_of

_LAST = ("usage", "prompt_text", "system_fingerprint", "service_tier")
_NO_DATA = (b"", DONE)
_OF_CHOICE = ("finish_reason", "stop_reason", "matched_stop", "routed_experts")


def read(body: bytes, form: Form) -> Assembled:
    """Return the record of a stream; events that cannot be read make it not `readable`."""
    data = data_of(body)
    events = [event for event in data if event != DONE]
    lenient = LenientEvents(form)
    chunks = _read_at_once(events, form)
    if chunks is None:
        events = [event for event in events if event.strip() not in _NO_DATA]
        for event in events:
            lenient.read(event)
        chunks = lenient.events
    record = _settle(chunks, lenient, form)
    record.streamed = True
    record.done = len(events) < len(data)
    record.events = len(data)
    record.readable = not lenient.unreadable
    return join_halves(record) if lenient.repaired else record


def _read_at_once(data: list[bytes], form: Form) -> list[Any] | None:
    """Return the events, or None if the structs cannot read all of them."""
    try:
        events = form.events(b"[%b]" % b",".join(data))
    except UNREADABLE:
        return None
    return events if len(events) == len(data) else None


def _settle(events: list[Any], lenient: LenientEvents, form: Form) -> Assembled:
    by_index: defaultdict[int, list[Any]] = defaultdict(list)
    for event in events:
        for chunk in event.choices:
            by_index[chunk.index or 0].append(chunk)
    outside = [
        event
        for event in events
        if event.usage
        or event.prompt_token_ids
        or event.system_fingerprint
        or event.prompt_text
        or event.service_tier
    ]
    indices = sorted(by_index)
    # A chat has one prompt, sent with the first event of each choice.
    prompts = [event.prompt_token_ids for event in outside if event.prompt_token_ids]
    prompt: list[int] = prompts[0] if prompts else []
    if len(prompts) > 1 and any(other != prompt for other in prompts):
        lenient.unreadable += 1  # nothing tells which is the prompt
    answer = _outside(events, outside, form)
    parts = [form.part(by_index[index], index, prompt) for index in indices]
    answer["choices"] = [
        _choice(part, by_index[part.index], lenient.rest(part.index), form) for part in parts
    ]
    if prompt:
        answer["prompt_token_ids"] = [] if form.answer_lists else prompt
    record = metadata.assembled({**lenient.outside, **answer})
    add_ids(parts, lenient.outside.get("sglext"))
    record.parts = parts
    return record


def _outside(events: list[Any], marked: list[Any], form: Form) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for name in form.first:
        value = _known([getattr(event, name) for event in events[:1]])
        if value is not None:
            answer[name] = value
    if form.object:
        answer["object"] = form.object
    for name in _LAST:
        value = _known([getattr(event, name) for event in marked])
        if value is not None:
            answer[name] = value
    return answer


def _choice(part: Part, chunks: list[Any], rest: UnknownFields, form: Form) -> dict[str, Any]:
    known, contradicts = form.settle(chunks)
    if contradicts:
        part.doubts.append("message_contradicts")
    choice = {**rest.choice, "index": part.index, **known}
    if rest.message:
        choice["message"].update(rest.message)
    choice["logprobs"] = _scores([chunk.logprobs for chunk in chunks], rest, form)
    marked = [
        chunk
        for chunk in chunks
        if chunk.finish_reason or chunk.matched_stop or chunk.routed_experts or chunk.stop_reason
    ]
    for name in (*_OF_CHOICE, *form.of_choice):
        choice[name] = _known([getattr(chunk, name) for chunk in marked])
    for name in form.choice_lists:
        if (mark := _mark([getattr(chunk, name) for chunk in chunks])) is not msgspec.UNSET:
            choice[name] = mark
    return choice


def _scores(scores: Sequence[Any], rest: UnknownFields, form: Form) -> dict[str, Any] | None:
    known = [score for score in scores if score]
    if not known:
        return rest.scores or None
    marks = {name: _mark([getattr(score, name) for score in known]) for name in form.logprob_lists}
    return {
        **rest.scores,
        **{name: mark for name, mark in marks.items() if mark is not msgspec.UNSET},
    }


def _mark(values: Sequence[Any]) -> Any:
    """Return [] if any value is a non-empty list; otherwise the first one present, or UNSET."""
    if any(values):
        return []
    return next((value for value in values if value is not msgspec.UNSET), msgspec.UNSET)


def _known(values: Sequence[Any]) -> Any:
    """Return the last value that is neither null nor absent; None if there is none."""
    known = (value for value in reversed(values) if value not in (None, msgspec.UNSET))
    return next(known, None)
