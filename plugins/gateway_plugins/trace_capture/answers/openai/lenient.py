"""Reads responses with fields that the structs do not know: slower, but nothing is lost."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import UNREADABLE
from gateway_plugins.trace_capture.answers.deltas import merge, settled
from gateway_plugins.trace_capture.answers.openai.formats import Form
from gateway_plugins.trace_capture.answers.openai.structs import ChatDelta
from gateway_plugins.trace_capture.answers.python_json import as_json

_NUMBERS = ("index", "finish_reason", "token_ids", "prompt_token_ids", "prompt_logprobs")
_CHAT_DELTA = frozenset(ChatDelta.__struct_fields__)
_IGNORED = frozenset({"obfuscation"})  # random padding
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def numbers_of(choice: Any, form: Form) -> Any:
    """Return the struct of a plain choice with its numbers only. Raises one of UNREADABLE."""
    if not isinstance(choice, dict):
        raise TypeError("a choice must be an object")
    wanted = [name for name in _NUMBERS if name in form.choice.__struct_fields__]
    known = {name: choice[name] for name in wanted if name in choice}
    found = msgspec.convert(known | _provided(choice), form.choice)
    if isinstance(scores := choice.get("logprobs"), dict):
        found.logprobs = form.lenient_logprobs(scores)
    return found


def _provided(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return the token ids of a choice if LiteLLM or SGLang has them at a place of its own."""
    fields = choice.get("provider_specific_fields")
    ids = fields.get("token_ids") if isinstance(fields, dict) else choice.get("response_token_ids")
    return {"token_ids": ids} if ids and not choice.get("token_ids") else {}


class UnknownFields(msgspec.Struct):
    """The unknown fields of one choice, of its deltas, and of its logprobs."""

    choice: dict[str, Any] = {}
    message: dict[str, Any] = {}
    scores: dict[str, Any] = {}


class LenientEvents:
    """The events of a stream, and separately the fields that the structs do not know.

    `outside` holds the unknown fields of the response itself. `unreadable` counts the events left
    out. `repaired`: some were not JSON, see `as_json`.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        self._outside = frozenset(form.event.__struct_fields__) - {"choices"}
        self.events: list[Any] = []
        self.outside: dict[str, Any] = {}
        self.unreadable = 0
        self.repaired = False
        self._rests: dict[int, UnknownFields] = {}

    def read(self, data: bytes) -> None:
        """Parse and add an event."""
        try:
            self.events.append(self._event(self._object_of(data)))
        except UNREADABLE:
            self.unreadable += 1

    def _object_of(self, data: bytes) -> dict[str, Any]:
        try:
            return _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.repaired = True
            return _decode(as_json(data))

    def rest(self, index: int) -> UnknownFields:
        """Return the unknown fields to add to the choice at `index`."""
        rest = self._rests.get(index) or UnknownFields()
        return UnknownFields(rest.choice, settled(rest.message), rest.scores)

    def _event(self, event: dict[str, Any]) -> Any:
        known, unknown = _apart(event, self._outside)
        choices = unknown.pop("choices", None)
        _replace(self.outside, unknown)
        found = msgspec.convert(known, self.form.event)
        if not (choices is None or isinstance(choices, list)):
            raise TypeError("choices must be a list")
        found.choices = [self._chunk(choice) for choice in choices or ()]
        return found

    def _chunk(self, choice: Any) -> Any:
        if not isinstance(choice, dict):
            raise TypeError("a choice must be an object")
        known, unknown = _apart(choice, self.form.chunk.__struct_fields__)
        delta, in_delta = _apart(_object(known.pop("delta", None)), _CHAT_DELTA)
        scores, in_scores = _apart(_object(known.get("logprobs")), self.form.logprob_lists)
        if scores:
            del known["logprobs"]
        chunk = msgspec.convert(known | _provided(choice), self.form.chunk)
        if scores:
            chunk.logprobs = self.form.lenient_logprobs(scores)
        if delta:
            chunk.delta = msgspec.convert(delta, ChatDelta)
        self._keep(chunk.index or 0, unknown, in_delta, in_scores)
        return chunk

    def _keep(
        self, index: int, unknown: dict[str, Any], delta: dict[str, Any], scores: dict[str, Any]
    ) -> None:
        if unknown or delta or scores:
            rest = self._rests.setdefault(index, UnknownFields())
            _replace(rest.choice, unknown)
            merge(rest.message, delta)
            _replace(rest.scores, scores)


def _object(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError("an object was expected")
    return value


def _apart(
    value: Mapping[str, Any], names: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields with these names, and the other ones."""
    known = {key: item for key, item in value.items() if key in names}
    others = {k: item for k, item in value.items() if k not in names and k not in _IGNORED}
    return known, others


def _replace(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    into.update({key: value for key, value in new.items() if value is not None})
