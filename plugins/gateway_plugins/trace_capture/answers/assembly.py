"""Parses the bytes of a response, as the worker sent them, into an Assembled."""

from typing import Literal

from gateway_plugins.trace_capture.answers import other_apis
from gateway_plugins.trace_capture.answers.assembled import UNREADABLE, Assembled, Part
from gateway_plugins.trace_capture.answers.openai import plain, streams
from gateway_plugins.trace_capture.answers.openai.formats import CHAT, COMPLETIONS, Form
from gateway_plugins.trace_capture.answers.rebuild import choices_of, whole

__all__ = ["Assembled", "Part", "assemble", "choices_of", "whole"]

Api = Literal["responses", "messages", "unknown"]

_FORMS = {
    "chat/completions": CHAT,
    "chat/completions/batch": CHAT,
    "completions": COMPLETIONS,
}
_APIS: dict[str, Api] = {"responses": "responses", "messages": "messages"}
_STREAMS = {
    "responses": other_apis.read_responses,
    "messages": other_apis.read_messages,
    "unknown": other_apis.read_events,
}


def assemble(path: str, body: bytes, *, streamed: bool, status: int = 200) -> Assembled:
    """Return the record of a response to a request for `path`; never raises, whatever the bytes.

    `body` is already decoded (no content encoding). `streamed`: it is an event stream.
    """
    form, api = _form_of(path)
    try:
        if streamed:
            return streams.read(body, form) if form else _STREAMS[api](body)
        answered = plain.read(body, form) if form else None
    except UNREADABLE:
        answered = None
    if answered is not None:
        return answered
    record = other_apis.read_plain(body, status=status)
    record.streamed, record.done = streamed, not streamed
    if form or streamed:  # no response of this API; readable only if it is an error
        record.readable = not streamed and record.readable and record.error is not None
    elif api == "unknown":
        record.readable = True
    return record


def _form_of(path: str) -> tuple[Form | None, Api]:
    _, _, tail = path.partition("?")[0].strip("/").rpartition("v1/")
    return _FORMS.get(tail), _APIS.get(tail, "unknown")
