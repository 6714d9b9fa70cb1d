"""The item of a stream that is being written: its events from the first to the last.

Each returns event data without its `sequence_number`: what stands before it and the event's type.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import msgspec

from gateway.wire.translation.responses.custom_tools import Payload, as_text
from gateway.wire.translation.responses.request.tools import Called
from gateway.wire.translation.responses.response import logprobs, output
from gateway.wire.translation.responses.response.output import EMPTY, NULL
from gateway.wire.translation.responses.sealed_reasoning import seal

Part = tuple[bytes, bytes]
"""The data of an event up to its sequence number, and the type of the event."""

encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode

ADDED, DONE = b"response.output_item.added", b"response.output_item.done"
PART_ADDED, PART_DONE = b"response.content_part.added", b"response.content_part.done"


_DELTA = b'event: response.output_text.delta\ndata: {"content_index":0,"delta":'
_NUMBER = b',"sequence_number":'
_DELTA_END = b',"type":"response.output_text.delta"}\n\n'


def _part(place: bytes, part: bytes) -> bytes:
    return b'"content_index":0,%b,"part":%b' % (place, part)


def _item(item: bytes, index: int) -> bytes:
    return b'"item":%b,"output_index":%d' % (item, index)


class _Open:
    """What all items have: `index` is that in the output, `done` the item once it is whole."""

    __slots__ = ("_text", "done", "id", "index", "place")

    def __init__(self, prefix: str, index: int) -> None:
        self.id = output.new_id(prefix)
        self.index = index
        self.place = b'"item_id":"%b","output_index":%d' % (self.id, index)
        self.done = b""
        self._text = bytearray()

    @property
    def _json(self) -> bytes:
        """The text so far, as a JSON string."""
        return b"".join((b'"', self._text, b'"'))

    def _end(self, item: bytes) -> Part:
        self.done = item
        return _item(item, self.index), DONE


class OpenMessage(_Open):
    """A message: a text with its logprobs, if they were asked for."""

    __slots__ = ("_after", "_logprobs", "_until_number")

    TYPE = b"response.output_text.delta"

    def __init__(self, index: int) -> None:
        super().__init__("msg", index)
        self._logprobs: list[logprobs.Token] = []
        self._after = b',"item_id":"%b","logprobs":[],"output_index":%d' % (self.id, index)
        self._until_number = self._after + _NUMBER

    def open(self) -> list[Part]:
        item = output.message(self.id, b"", b"in_progress")
        part = output.text_part(EMPTY, b"[]")
        return [(_item(item, self.index), ADDED), (_part(self.place, part), PART_ADDED)]

    def next(self, text: bytes, number: int) -> bytes:
        """Return the event that adds `text`, a JSON string, without logprobs."""
        self._text += text[1:-1]
        return b"".join((_DELTA, text, self._until_number, b"%d" % number, _DELTA_END))

    def add(self, text: bytes, tokens: list[logprobs.Token]) -> Part:
        """`text` is a JSON string."""
        self._text += text[1:-1]
        if not tokens:
            return b'"content_index":0,"delta":' + text + self._after, self.TYPE
        self._logprobs += tokens
        told = logprobs.of_delta(tokens)
        data = b'"content_index":0,"delta":%b,"item_id":"%b","logprobs":%b,"output_index":%d'
        return data % (text, self.id, told, self.index), self.TYPE

    def close(self) -> list[Part]:
        text = self._json
        told = logprobs.encode(self._logprobs) if self._logprobs else NULL
        part = output.text_part(text, told)
        done = b'"content_index":0,%b,"logprobs":[],"text":%b' % (self.place, text)
        return [
            (done, b"response.output_text.done"),
            (_part(self.place, part), PART_DONE),
            self._end(output.message(self.id, part, b"completed")),
        ]


class _OpenPart(_Open, ABC):
    """An item of one part, whose text comes without logprobs; `_told` is that text's field."""

    __slots__ = ("_after", "_told")

    TYPE: ClassVar[bytes]
    ENDED: ClassVar[bytes]

    def __init__(self, prefix: str, index: int, told: bytes) -> None:
        super().__init__(prefix, index)
        self._after = b"," + self.place
        self._told = told

    def open(self) -> list[Part]:
        part = self._part(EMPTY)
        return [(_item(self._begun(), self.index), ADDED), (_part(self.place, part), PART_ADDED)]

    def add(self, text: bytes) -> Part:
        """`text` is a JSON string."""
        self._text += text[1:-1]
        return b'"content_index":0,"delta":' + text + self._after, self.TYPE

    def close(self) -> list[Part]:
        part = self._part(self._json)
        done = b'"content_index":0,%b,"%b":%b' % (self.place, self._told, self._json)
        ended = self._end(self._whole(part))
        return [(done, self.ENDED), (_part(self.place, part), PART_DONE), ended]

    @abstractmethod
    def _part(self, text: bytes) -> bytes:
        """Return the part with its text, a JSON string."""

    @abstractmethod
    def _begun(self) -> bytes:
        """Return the item as it is added: without a part."""

    @abstractmethod
    def _whole(self, part: bytes) -> bytes:
        """Return the item once it is whole."""


class OpenRefusal(_OpenPart):
    """A message that is a refusal, of the model's own or of its server's."""

    __slots__ = ()

    TYPE = b"response.refusal.delta"
    ENDED = b"response.refusal.done"

    def __init__(self, index: int) -> None:
        super().__init__("msg", index, b"refusal")

    def _part(self, text: bytes) -> bytes:
        return output.refusal_part(text)

    def _begun(self) -> bytes:
        return output.message(self.id, b"", b"in_progress")

    def _whole(self, part: bytes) -> bytes:
        return output.message(self.id, part, b"completed")


class OpenReasoning(_OpenPart):
    """Reasoning; `sealed`: the caller wants to take it away, see sealed_reasoning."""

    __slots__ = ("_sealed",)

    TYPE = b"response.reasoning_text.delta"
    ENDED = b"response.reasoning_text.done"

    def __init__(self, index: int, *, sealed: bool) -> None:
        super().__init__("rs", index, b"text")
        self._sealed = sealed

    def _part(self, text: bytes) -> bytes:
        return output.reasoning_part(text)

    def _begun(self) -> bytes:
        return output.reasoning(self.id, NULL, NULL, b'"in_progress"')

    def _whole(self, part: bytes) -> bytes:
        sealed = encode(seal(decoded(self._json))) if self._sealed else NULL
        return output.reasoning(self.id, b"[%b]" % part, sealed, b'"completed"')


class OpenCall(_Open):
    """A call of a function; `number` and `call_id` are those of chat, `told` is the caller's id."""

    __slots__ = ("_after", "_call_id", "_name", "_namespace", "call_id", "number")

    TYPE = b"response.function_call_arguments.delta"

    def __init__(self, index: int, number: int, call_id: str, told: str, called: Called) -> None:
        super().__init__("fc", index)
        self.number, self.call_id = number, call_id
        self._call_id, self._name = encode(told), encode(called.name)
        self._namespace = encode(called.namespace)
        self._after = b"," + self.place

    def open(self) -> list[Part]:
        return [(_item(self._whole(EMPTY, b"in_progress"), self.index), ADDED)]

    def add(self, arguments: bytes) -> list[Part]:
        """`arguments` is a JSON string."""
        self._text += arguments[1:-1]
        return [(b'"delta":' + arguments + self._after, self.TYPE)]

    def close(self) -> list[Part]:
        text = self._json
        done = b'"arguments":%b,%b,"name":%b' % (text, self.place, self._name)
        return [
            (done, b"response.function_call_arguments.done"),
            self._end(self._whole(text, b"completed")),
        ]

    def _whole(self, text: bytes, status: bytes) -> bytes:
        return output.function_call(
            self.id, self._call_id, self._name, self._namespace, text, status
        )


class OpenCustomCall(_Open):
    """A call of a tool for free text: the text in the arguments of its function. See OpenCall."""

    __slots__ = ("_arguments", "_call_id", "_name", "_payload", "_sent", "call_id", "number")

    TYPE = b"response.custom_tool_call_input.delta"

    def __init__(self, index: int, number: int, call_id: str, told: str, called: Called) -> None:
        super().__init__("ctc", index)
        self.number, self.call_id = number, call_id
        self._call_id, self._name = encode(told), encode(called.name)
        self._payload = Payload()
        self._arguments: list[str] = []
        self._sent: list[str] = []

    def open(self) -> list[Part]:
        return [(_item(self._whole(EMPTY), self.index), ADDED)]

    def add(self, arguments: bytes) -> list[Part]:
        """`arguments` is a JSON string."""
        piece = decoded(arguments)
        self._arguments.append(piece)
        return self._delta(self._payload.feed(piece))

    def close(self) -> list[Part]:
        """A text that does not go on from what was sent is sent as a whole, as vLLM does."""
        text, sent = as_text("".join(self._arguments)), "".join(self._sent)
        rest = text.removeprefix(sent)
        whole = encode(text)
        return [
            *self._delta(rest),
            (b'"input":%b,%b' % (whole, self.place), b"response.custom_tool_call_input.done"),
            self._end(self._whole(whole)),
        ]

    def _delta(self, text: str) -> list[Part]:
        if not text:
            return []
        self._sent.append(text)
        return [(b'"delta":%b,%b' % (encode(text), self.place), self.TYPE)]

    def _whole(self, text: bytes) -> bytes:
        return output.custom_call(self.id, self._call_id, self._name, text)


def decoded(text: bytes) -> str:
    """Return the text of a JSON string."""
    return _decode_text(text)
