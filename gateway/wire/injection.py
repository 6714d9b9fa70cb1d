"""Injection: request more from a worker than the caller did, and strip it from the response.

Workers send token ids, logprobs and the usage of a stream only on request. `inject` returns the
keys to set in the request; its Stripper removes their effect from the response. The result is what
vLLM sends without the flags, as shown by its responses with and without each of them:

- `token_ids`, `prompt_token_ids` and `logprobs` are null, not absent, if they were not requested.
- A token inside a character, or of a tool call's mark-up, has an id and a logprob but no content. A
  chat stream has an event with an empty delta for it only if ids or logprobs were requested.
- The usage of a stream comes as one more event, without choices, and that event then has the
  `system_fingerprint`. Without the usage, each event that finishes a choice has the fingerprint. So
  the events that finish a choice are held back until the usage has come, and events of other
  choices overtake them.

A field that the worker did not send is not added, and a value of another shape is left as it is.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal, get_args

import msgspec

from gateway.errors import InvalidJSON
from gateway.wire.dialect import Dialect
from gateway.wire.fast_strip import Frame, frame_of, strip_response
from gateway.wire.request import is_true
from gateway.wire.sse import DONE, Event, with_data

Injection = Literal["token_ids", "logprobs", "usage"]
StripOne = Callable[[bytes], bytes | None]
INJECTIONS: tuple[Injection, ...] = get_args(Injection)
NO_INJECTIONS: frozenset[Injection] = frozenset()

INJECTED_FIELDS: Mapping[Injection, str] = {
    "token_ids": "return_token_ids",
    "logprobs": "logprobs|top_logprobs",
    "usage": "stream_options|include_usage",
}
"""Patterns of the request fields that each injection sets."""

MAX_FRAME_MISSES = 4
"""Number of frames in a row that may fail to match the next event before no more are computed."""

_Object = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")
_EMPTY_OBJECT = msgspec.Raw(b"{}")
_EMPTY_LIST = msgspec.Raw(b"[]")
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_choices = msgspec.json.Decoder(list[_Object]).decode


def inject(
    dialect: Dialect, body: Mapping[str, object], wanted: Collection[Injection]
) -> tuple[dict[str, object], "Stripper | None"]:
    """Return the top-level keys to set in the request `body`, and the Stripper of their effect.

    Three kinds are not injected: fields that the caller requests itself; fields with an effect that
    cannot be stripped (with `echo`, ids and logprobs change a completion's text); and fields that
    would make valid a request that the worker rejects as it stands. Returns ({}, None) if none
    remain.
    """
    changes: dict[str, object] = {}
    injected: set[Injection] = set()
    for name in INJECTIONS:
        change = dialect.request_changes.get(name) if name in wanted else None
        if change is not None and (added := change(body)):
            changes.update(added)
            injected.add(name)
    if not injected:
        return {}, None
    sees_tokens = is_true(body.get("return_token_ids")) or is_true(body.get("logprobs"))
    return changes, Stripper(injected, drop_empty=not sees_tokens)


def rewrite(body: bytes, changes: Mapping[str, object]) -> bytes:
    """Set some keys of `body`, a JSON object; its other values keep their bytes and their order.

    Raises InvalidJSON if `body` is not a JSON object.
    """
    try:
        values = _decode_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJSON(f"the request body must be a JSON object: {error}") from None
    return _encode({**values, **changes}) if changes else body


class _Held(msgspec.Struct, frozen=True):
    event: Event
    answer: _Object
    stripped: bool


class Stripper:
    """Strips the effect of the injections `injected` from one response, plain or streamed.

    `drop_empty`: the caller requested neither ids nor logprobs, and would not have received an
    event that has nothing else.
    """

    __slots__ = (
        "_drop_empty",
        "_finished",
        "_frame",
        "_held",
        "_in_answer",
        "_in_choice",
        "_misses",
        "_usage",
        "injected",
    )

    def __init__(self, injected: Collection[Injection], *, drop_empty: bool = True) -> None:
        self.injected = frozenset(injected)
        self._in_answer: tuple[str, ...] = ()
        self._in_choice: tuple[str, ...] = ()
        if "token_ids" in injected:
            self._in_answer = ("prompt_token_ids",)
            self._in_choice = ("token_ids", "prompt_token_ids")
        if "logprobs" in injected:
            self._in_choice += ("logprobs",)
        self._usage = "usage" in injected
        self._drop_empty = drop_empty
        self._frame: Frame | None = None
        self._misses = 0
        self._held: list[_Held] = []
        self._finished: set[bytes] = set()  # choices with their last event held back

    def plain(self, body: bytes) -> bytes:
        """Return a whole plain response as the caller is to receive it."""
        cut = strip_response(body, self._in_answer, self._in_choice)
        return self._any_plain(body) if cut is None else cut

    def _any_plain(self, body: bytes) -> bytes:
        answer, choices = _read(body)
        return _encode(answer) if self._strip(answer, choices) else body

    def event(self, event: Event) -> bytes:
        """Return the bytes to send now; b"" if the event is dropped or held back."""
        data = event.data
        if data is None:
            return event.raw
        if data == DONE:
            return self.close() + event.raw
        if self._frame is not None and not self._held:
            cut = self._frame.strip_one(event.raw)
            if cut is not None:
                self._misses = 0
                return cut
        return self._any_event(event, data)

    @property
    def strip_one(self) -> StripOne | None:
        """A function that strips one event as `event` does, or None if there is none at present.

        It returns None for an event that must be decoded in full. It is for events that arrive
        singly, and valid until one of them is passed to `event` or `strip_run`.
        """
        return self._frame.strip_one if self._frame is not None and not self._held else None

    def strip_run(self, text: bytes) -> tuple[bytes, int]:
        """Strip the leading events of `text`; return the result and the number of bytes consumed.

        For several events that came in one read. Pass the rest of `text` to `event`.
        """
        if self._frame is None or self._held:
            return b"", 0
        return self._frame.strip_run(text) or (b"", 0)

    def _any_event(self, event: Event, data: bytes) -> bytes:
        """Strip an event of any kind: the slow reference for the result of `Frame.strip_one`."""
        answer, choices = _read(data)
        if choices:
            if len(choices) == 1 and self._misses < MAX_FRAME_MISSES:
                self._learn(answer, choices[0])
            # An event may overtake the held end of another choice, but not that of its own.
            late = self._held and not self._finished.isdisjoint(_indices(choices))
            return (self.close() if late else b"") + self._choices(event, answer, choices)
        if self._usage and _is_usage(answer):
            return self._release(answer.get("system_fingerprint", _NULL))
        return self.close() + event.raw

    def _learn(self, answer: _Object, choice: _Object) -> None:
        if _is_finished(choice) or any(answer.get(key, _NULL) != _NULL for key in self._in_answer):
            return
        self._misses += 1
        found = frame_of(answer, self._in_choice, drop_empty=self._drop_empty)
        self._frame = found or self._frame

    def close(self) -> bytes:
        """Return the events held back for a usage event that did not come."""
        return self._release(_NULL) if self._held else b""

    def _choices(self, event: Event, answer: _Object, choices: list[_Object]) -> bytes:
        stripped = self._strip(answer, choices)
        if stripped and self._drop_empty and all(map(_is_empty, choices)):
            return b""
        if self._usage and "system_fingerprint" not in answer and any(map(_is_finished, choices)):
            self._held.append(_Held(event, answer, stripped))
            self._finished |= _indices(choices)
            return b""
        return with_data(event, _encode(answer)) if stripped else event.raw

    def _strip(self, answer: _Object, choices: list[_Object]) -> bool:
        """Set injected fields to null; return whether there were any."""
        found = [_blank(choice, self._in_choice) for choice in choices]
        if any(found):
            answer["choices"] = msgspec.Raw(_encode(choices))
        return _blank(answer, self._in_answer) or any(found)

    def _release(self, fingerprint: msgspec.Raw) -> bytes:
        held, self._held, self._finished = self._held, [], set()
        parts = []
        for one in held:
            if fingerprint != _NULL:
                one.answer["system_fingerprint"] = fingerprint
            changed = one.stripped or fingerprint != _NULL
            parts.append(with_data(one.event, _encode(one.answer)) if changed else one.event.raw)
        return b"".join(parts)


def _read(data: bytes) -> tuple[_Object, list[_Object]]:
    """Decode a response and its choices; both are empty if `data` is not a response."""
    try:
        answer = _decode_object(data)
        return answer, _decode_choices(answer.get("choices", _EMPTY_LIST))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}, []


def _blank(part: _Object, fields: tuple[str, ...]) -> bool:
    found = False
    for field in fields:
        if part.get(field, _NULL) != _NULL:
            part[field] = _NULL
            found = True
    return found


def _indices(choices: list[_Object]) -> set[bytes]:
    return {bytes(choice.get("index", _NULL)) for choice in choices}


def _is_empty(choice: _Object) -> bool:
    return choice.get("delta") == _EMPTY_OBJECT and not _is_finished(choice)


def _is_finished(choice: _Object) -> bool:
    return choice.get("finish_reason", _NULL) != _NULL


def _is_usage(answer: _Object) -> bool:
    return answer.get("choices") == _EMPTY_LIST and answer.get("usage", _NULL) != _NULL


def listed(injections: Iterable[Injection]) -> str:
    """Return the main request field of each injection, for messages."""
    return ", ".join(sorted(INJECTED_FIELDS[one].partition("|")[0] for one in injections))
