"""Converts a plain response to the events of a stream, each in the form that vLLM sends."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.wire.apis.openai import CHAT
from gateway.wire.dialect import Dialect

_Object = dict[str, Any]

_HEAD = ("id", "object", "created", "model")
_AT_THE_END = ("choices", "usage", "system_fingerprint")
_FIRST_IN_CHOICE = ("index", "message", "text", "logprobs", "token_ids", "prompt_token_ids")


class _Answer(msgspec.Struct):
    choices: list[_Object]
    id: str = ""
    created: int = 0
    model: str | None = None
    usage: _Object | None = None
    system_fingerprint: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = None
    message: _Object = {}
    finish_reason: str | None = None


def as_events(answer: Mapping[str, Any], dialect: Dialect, *, usage: bool) -> bytes:
    """Return the whole stream, `[DONE]` included; `usage` adds an event for the usage, if any.

    Each choice has one event with all its tokens and another with its `finish_reason`; in chat an
    event with the role comes first. Keys that no stream has go on a choice's first event if they
    are the response's, and on its last event if they are the choice's. Raises
    msgspec.ValidationError, TypeError or ValueError if `answer` is not a response of that dialect.
    """
    known = msgspec.convert(answer, _Answer)
    head = {**{key: answer.get(key) for key in _HEAD}, "object": dialect.event_object}
    others = answer.keys() - {*_HEAD, *_AT_THE_END}
    top = {key: answer[key] for key in answer if key in others and answer[key] is not None}
    counted = known.usage if usage else None
    stamp = {"system_fingerprint": known.system_fingerprint} if known.system_fingerprint else {}
    told = [
        {**head, "choices": [choice], **more}
        for one in known.choices
        for choice, more in _told(one, dialect, top, {} if counted else stamp)
    ]
    if counted is not None:
        told.append({**head, "choices": [], "usage": counted, **stamp})
    events = [b"data: %b\n\n" % msgspec.json.encode(event) for event in told]
    return b"".join([*events, b"data: [DONE]\n\n"])


def _told(
    choice: _Object, dialect: Dialect, top: _Object, stamp: _Object
) -> Iterator[tuple[_Object, _Object]]:
    """Yield the choice object of each event, with that event's further top-level keys."""
    known = msgspec.convert(choice, _Choice)
    index = {"index": known.index}
    logprobs = {"logprobs": choice.get("logprobs")}
    ids: _Object = {key: choice[key] for key in ("prompt_token_ids", "token_ids") if key in choice}
    no_ids: _Object = dict.fromkeys(ids)
    unfinished = {"finish_reason": None}
    if dialect is CHAT:
        role = {"role": known.message.get("role") or "assistant", "content": ""}
        yield {**index, "delta": role, "logprobs": None, **unfinished}, top
        yield {**index, "delta": _delta(known.message), **logprobs, **unfinished, **ids}, {}
        empty: _Object = {"delta": {}}
    else:
        yield {**index, "text": known.text or "", **logprobs, **unfinished, **ids}, top
        empty = {"text": ""}
    rest = {key: choice[key] for key in choice if key not in _FIRST_IN_CHOICE}
    yield {**index, **empty, "logprobs": None, "finish_reason": None, **rest, **no_ids}, stamp


def _delta(message: Mapping[str, Any]) -> _Object:
    said = {key: value for key, value in message.items() if key != "role" and value is not None}
    calls = said.get("tool_calls")
    if calls:
        said["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    elif calls is not None:
        del said["tool_calls"]
    if not said.get("content"):
        said.pop("content", None)
    return said
