"""The form of Responses: chat's events, translated, with the engine's own mistakes."""

from collections.abc import Callable

import msgspec
from msgspec import Raw

from gateway.simulator.api.messages.wire import split
from gateway.simulator.api.responses.form import Fields, Form, decode_fields, encode
from gateway.simulator.input.refusals import Refused
from gateway.wire.translation.responses.translator import ResponsesTranslator

Keep = Callable[[Fields], None]
"""Function of the object of a response that has ended."""


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Chat(msgspec.Struct, frozen=True):
    """What the engine's own reading of chat's response, plain or streamed, needs."""

    choices: list[_Choice]


_read_chat = msgspec.json.Decoder(_Chat).decode

_COMPLETED = Raw(b'"response.completed"')
_ABORT, _STOP = b'"finish_reason":"abort"', b'"finish_reason":"stop"'
_END = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


class ResponsesWire:
    """Translates one call's response; see `generation.Wire`. An abort is an end like any other."""

    def __init__(self, translator: ResponsesTranslator, form: Form, keep: Keep) -> None:
        self._translator = translator
        self._form = form
        self._keep = keep
        self._ended = False

    def begun(self, status: bytes) -> Fields:
        """Return the response before it has run."""
        made = self._form.object_of(encode(self._translator.response))
        return made | {"status": Raw(status)}

    def frames(self, event: bytes) -> list[bytes]:
        found = _read_chat(event)
        self._collect(found)
        ended = any(choice.finish_reason for choice in found.choices)
        made = b""
        if not found.choices and not self._ended:
            made = self._translator.event(_END)
        self._ended = self._ended or ended
        made += self._translator.event(_without_abort(event))
        return [self._formed(frame) for frame in split(made)]

    def end(self) -> bytes:
        return b"".join(map(self._formed, split(self._translator.end(done=True))))

    def crash(self, died: Refused) -> None:
        """The engine breaks off."""

    def whole(self, body: bytes) -> bytes:
        self._collect(_read_chat(body))
        made = self._form.object_of(self._translator.answer(_without_abort(body)))
        self._keep(made)
        return encode(made)

    def _collect(self, found: _Chat) -> None:
        for choice in found.choices[:1]:
            self._form.sampled += choice.token_ids or ()

    def _formed(self, frame: bytes) -> bytes:
        """Return an event of the translator as the engine writes it: its fields are sorted."""
        name, _, data = frame.partition(b"\ndata: ")
        event = decode_fields(data)
        if "response" in event:
            made = self._form.object_of(event["response"])
            event["response"] = Raw(encode(made))
            if event["type"] == _COMPLETED:
                self._keep(made)
        return b"%b\ndata: %b\n\n" % (name, encode(_sorted(event)))


def _sorted(event: Fields) -> Fields:
    """Sort the fields; `name` is newer than the others, and last."""
    return dict(sorted(event.items(), key=lambda item: (item[0] == "name", item[0])))


def _without_abort(chat: bytes) -> bytes:
    """Texts cannot hold the replaced bytes: quotes within them are escaped."""
    return chat.replace(_ABORT, _STOP)
