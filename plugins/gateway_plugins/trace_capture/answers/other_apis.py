"""Reads responses of all other APIs, and bodies that are no response of an API."""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers import metadata
from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Assembled
from gateway_plugins.trace_capture.answers.messages_api import MessageStream
from gateway_plugins.trace_capture.answers.python_json import decoded
from gateway_plugins.trace_capture.answers.sse import DONE, data_of
from gateway_plugins.trace_capture.answers.token_apis.responses import parts_of

_FINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


def read_plain(body: bytes, *, status: int) -> Assembled:
    """Return the record of a JSON body as it is, and of any other body as text or base64.

    The record is `readable` only if the body is a JSON object.
    """
    try:
        answer = decoded(body)
        is_object = isinstance(answer, dict)
        record = metadata.assembled(answer if is_object else {"json": answer})
        record.parts = parts_of(answer) if is_object else []
        record.readable = is_object
    except UNREADABLE:
        record = _as_text(body, status)
        record.readable = False
    return record


def read_responses(body: bytes) -> Assembled:
    """Return the record of a /v1/responses stream: the response in its last final event."""
    events, data = _events(body)
    final = [event for event in events if event.get("type") in _FINAL]
    answer = final[-1].get("response") if final else None
    record = _record(answer if isinstance(answer, dict) else {"events": events}, events, data)
    record.done = bool(final)
    if isinstance(answer, dict):
        record.parts = parts_of(answer)
    if not final:
        _name_after(record, [event.get("response") for event in events])
    return record


def read_messages(body: bytes) -> Assembled:
    """Return the record of a /v1/messages stream."""
    events, data = _events(body)
    message = MessageStream()
    for event in events:
        message.add(event)
    record = _record(message.settled(), events, data)
    record.done = message.stopped
    return record


def read_events(body: bytes) -> Assembled:
    """Return the record of an unknown API's stream: its events. It has no known end marker."""
    data = data_of(body)
    events = [_event(one) for one in data if one != DONE]
    known = [event for event in events if isinstance(event, dict)]
    record = _record({"events": events}, known, data)
    record.readable = True
    for event in known:
        record.response_id = record.response_id or metadata.text(event.get("id"))
        record.model = record.model or metadata.text(event.get("model"))
        metadata.with_usage(record, event.get("usage"))
    return record


def _name_after(record: Assembled, responses: list[Any]) -> None:
    """Set id and model from the first event with a response, for a stream that did not end."""
    first = next((one for one in responses if isinstance(one, dict)), {})
    record.response_id, record.model = (
        metadata.text(first.get("id")),
        metadata.text(first.get("model")),
    )


def _record(
    answer: Mapping[str, Any], events: list[dict[str, Any]], data: list[bytes]
) -> Assembled:
    record = metadata.assembled(answer)
    record.streamed = True
    record.events = len(data)
    record.readable = len(events) == len([one for one in data if one != DONE])
    errors = filter(None, map(metadata.error_message, events))
    record.error = record.error or next(errors, None)
    return record


def _events(body: bytes) -> tuple[list[dict[str, Any]], list[bytes]]:
    data = data_of(body)
    events = [_event(one) for one in data if one != DONE]
    return [event for event in events if isinstance(event, dict)], data


def _event(data: bytes) -> Any:
    try:
        event = decoded(data)
        msgspec.json.encode(event)
    except UNREADABLE:
        return data.decode(errors="replace")
    return event


def _as_text(body: bytes, status: int) -> Assembled:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return metadata.assembled({"base64": base64.b64encode(body).decode()})
    record = metadata.assembled({"text": text})
    record.error = text[:1000] or None if status >= 400 else None
    return record
