"""The quick way through the events of a stream that have no frame: the first, the last, the usage.

For compact JSON in the key order of vLLM and SGLang, of one choice or of none. As in `fast_strip`,
a Struct that encodes to the bytes that it was decoded from certainly has its keys once each and in
order. What engines differ in (see gateway.wire.stripping.unasked) is left to the slow way.
"""

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.wire.stripping.fast_strip import ABSENT, NULL, Choice, Exact, Frame, frame_around

_MARK = b"[\0]"  # JSON never contains this byte
_PLACE: Any = Raw(_MARK)
_UNFINISHED = (b'""', b'"null"')
_EMPTY_OBJECT = Raw(b"{}")

_encode = msgspec.json.Encoder().encode


class ExactEvent(Exact):
    """An event. `system_fingerprint` is last, so that it may be added to the end of the event."""

    id: Raw
    object: Raw
    created: Raw
    model: Raw
    choices: list[Choice]
    usage: Raw = ABSENT
    prompt_token_ids: Raw = ABSENT
    prompt_text: Raw = ABSENT
    system_fingerprint: Raw = ABSENT

    @property
    def tells_usage_alone(self) -> bool:
        """Whether it has no choice but a usage, and else nothing but what all events have."""
        return (
            not self.choices
            and self.usage != NULL
            and self.prompt_token_ids == NULL
            and self.prompt_text == NULL
        )


_decode = msgspec.json.Decoder(ExactEvent).decode


def read_exact(raw: bytes, data: bytes) -> ExactEvent | None:
    """Decode an event; None if encoding it again, in one line of data, would not give `raw`."""
    if raw != b"data: %b\n\n" % data:
        return None
    try:
        event = _decode(data)
    except NOT_JSON:
        return None
    nameless = NULL in (event.id, event.object, event.created, event.model)
    return None if nameless or _encode(event) != data else event


def is_usual(choice: Choice, *, ids: bool, logprobs: bool) -> bool:
    """Whether the choice tells nothing new of its engine; `ids` and `logprobs` are injected."""
    reason = choice.finish_reason
    if reason is ABSENT:
        return not (ids or logprobs)
    if logprobs and choice.logprobs is ABSENT:
        return False
    return reason == NULL or (bytes(reason)[:1] == b'"' and bytes(reason) not in _UNFINISHED)


def says_nothing(choice: Choice) -> bool:
    """Whether the choice goes on and has an empty delta."""
    return choice.delta == _EMPTY_OBJECT and choice.finish_reason == NULL


def frame_of_event(event: ExactEvent, blank: Collection[str], *, drop_empty: bool) -> Frame:
    """Return the frame around the one choice of `event`."""
    choices, event.choices = event.choices, _PLACE
    before, _, after = _encode(event).partition(_MARK)
    event.choices = choices
    return frame_around(before + b"[", b"]" + after, blank, drop_empty=drop_empty)


def take_out(event: ExactEvent, choice: Choice, *, ids: bool, logprobs: bool) -> bool:
    """Set injected fields of the event and its choice to null; return whether there were any."""
    found = False
    if ids:
        if event.prompt_token_ids != NULL:
            event.prompt_token_ids, found = NULL, True
        if choice.token_ids != NULL:
            choice.token_ids, found = NULL, True
        if choice.prompt_token_ids != NULL:
            choice.prompt_token_ids, found = NULL, True
    if logprobs and choice.logprobs != NULL:
        choice.logprobs, found = NULL, True
    return found


def told_with(event: ExactEvent, usage: ExactEvent) -> bytes:
    """Return the data of `event`, with what the event of the usage tells beside it."""
    if usage.system_fingerprint != NULL and event.system_fingerprint == NULL:
        event.system_fingerprint = usage.system_fingerprint
    return _encode(event)
