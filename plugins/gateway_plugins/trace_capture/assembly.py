"""From the bytes of an answer, as the worker sent them, to what is recorded of it."""

from typing import Literal

from gateway_plugins.trace_capture import others, plain, streams
from gateway_plugins.trace_capture.forms import CHAT, COMPLETIONS, Form
from gateway_plugins.trace_capture.shapes import UNREADABLE, Assembled, Part
from gateway_plugins.trace_capture.whole import choices_of, whole

__all__ = ["Assembled", "Part", "assemble", "choices_of", "whole"]

Api = Literal["responses", "messages", "unknown"]

_FORMS = {
    "chat/completions": CHAT,
    "chat/completions/batch": CHAT,
    "completions": COMPLETIONS,
}
_APIS: dict[str, Api] = {"responses": "responses", "messages": "messages"}
_STREAMS = {
    "responses": others.read_responses,
    "messages": others.read_messages,
    "unknown": others.read_events,
}


def assemble(path: str, body: bytes, *, streamed: bool, status: int = 200) -> Assembled:
    """The record of an answer of `path`, the request's; never raises, whatever the bytes.

    `body` has no content encoding any more. `streamed`: it is an event stream.
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
    record = others.read_plain(body, status=status)
    record.streamed, record.done = streamed, not streamed
    if form or streamed:  # no answer of its kind; where it is an error it was read as that
        record.readable = not streamed and record.readable and record.error is not None
    elif api == "unknown":
        record.readable = True
    return record


def _form_of(path: str) -> tuple[Form | None, Api]:
    _, _, tail = path.partition("?")[0].strip("/").rpartition("v1/")
    return _FORMS.get(tail), _APIS.get(tail, "unknown")
