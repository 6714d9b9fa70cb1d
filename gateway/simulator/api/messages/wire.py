"""The form of Messages: chat's events, translated, with the engine's own mistakes."""

import msgspec

from gateway.simulator.input.envelopes import misread
from gateway.simulator.input.refusals import Refused
from gateway.wire.translation.translation import ResponseTranslator


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice]


_ABORTED = b'"finish_reason":"abort"'
_FOR_NO_REASON = b'"finish_reason":"none"'
"""The engine ends an aborted message like any other, and says no reason."""

_ENDED = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


class MessagesWire:
    """Translates one call's response; see `generation.Wire`."""

    def __init__(self, translator: ResponseTranslator) -> None:
        self._translator = translator
        self._ended = False

    def frames(self, event: bytes) -> list[bytes]:
        chunk = msgspec.json.decode(event, type=_Chunk)
        self._ended = self._ended or any(choice.finish_reason for choice in chunk.choices)
        made = b""
        if not chunk.choices and not self._ended:
            # The engine takes an abort before the first token for an end of the turn.
            made = self._translator.event(_ENDED)
        return split(made + self._translator.event(event.replace(_ABORTED, _FOR_NO_REASON)))

    def end(self) -> bytes:
        return self._translator.end(done=True)

    def crash(self, died: Refused) -> bytes:
        return misread(died)

    def whole(self, body: bytes) -> bytes:
        """Return the message; the engine leaves out the reason of one that was aborted."""
        made = self._translator.answer(body.replace(_ABORTED, _FOR_NO_REASON))
        message = msgspec.json.decode(made, type=dict[str, msgspec.Raw])
        if message.get("stop_reason") == msgspec.Raw(b"null"):
            del message["stop_reason"]
        return msgspec.json.encode(message)


def split(frames: bytes) -> list[bytes]:
    """Return each of the events in `frames`."""
    return [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame]
