"""The events of a stream, made of chat's as they come.

They are vLLM's: `created` and `in_progress`, then for each item of the output its own from
`output_item.added` to `output_item.done`, and `completed` last, also of a response that is
incomplete. A response that failed ends in `error` and `response.failed`, and what is whole of it is
its output.
"""

from collections.abc import Sequence

import msgspec
from msgspec import ValidationError

from gateway.errors import NOT_JSON
from gateway.wire.translation import chat
from gateway.wire.translation.responses.errors import Failure, failure_of
from gateway.wire.translation.responses.request.tools import Toolbox
from gateway.wire.translation.responses.response import logprobs
from gateway.wire.translation.responses.response.open_items import (
    OpenCall,
    OpenCustomCall,
    OpenMessage,
    OpenReasoning,
    OpenRefusal,
    Part,
)
from gateway.wire.translation.responses.response.response_object import (
    Response,
    end_as,
    fail,
)

_UNREADABLE = b'{"message":"The worker sent an event that is not chat\'s.","type":"server_error"}'

_TOO_LARGE = b'{"message":"The response is too large to be translated.","type":"server_error"}'

MAX_BYTES = 256 * 1024 * 1024
"""Bytes of a chat stream that is translated; what it said is kept until its end."""

_QUOTE = ord('"')

Open = OpenMessage | OpenRefusal | OpenReasoning | OpenCall | OpenCustomCall


class EventStream:
    """Turns the events of one chat stream into those of a response.

    `response` is the response as it begins; it has the end's status after `end`. `sealed`: see
    sealed_reasoning. `ended` tells whether an event was the last one; `failure`: see
    translation.ResponseTranslator.
    """

    __slots__ = (
        "_finish_reason",
        "_ids",
        "_items",
        "_number",
        "_open",
        "_room",
        "_sealed",
        "_started",
        "_toolbox",
        "_usage",
        "ended",
        "failure",
        "response",
    )

    def __init__(self, response: Response, toolbox: Toolbox, *, sealed: bool = False) -> None:
        self.response = response
        self.ended = False
        self.failure: str | None = None
        self._toolbox = toolbox
        self._sealed = sealed
        self._number = 0
        self._room = MAX_BYTES
        self._started = False
        self._ids = chat.CallIds()
        self._open: Open | None = None
        self._items: list[bytes] = []
        self._usage: chat.Usage | None = None
        self._finish_reason: str | None = None

    def event(self, data: bytes) -> bytes:
        """Return the events for the data of one of chat's. Never raises."""
        if self.ended:
            return b""
        self._room -= len(data)
        if self._room < 0:
            self.failure = f"the stream is larger than {MAX_BYTES} bytes"
            return self.failed(_TOO_LARGE)
        started, number, whole = self._started, self._number, len(self._items)
        try:
            return self._event(data)
        except NOT_JSON as error:
            self.failure = f"an event cannot be translated: {error}"
            self._started, self._number = started, number
            del self._items[whole:]  # the events that told of them are lost
            return self.failed(_UNREADABLE)

    def end(self, *, done: bool) -> bytes:
        """Return the last events. The finish reason alone tells whether the response is whole.

        `done` proves nothing: some engines end without it, and one that dies may end with it.
        """
        if self.ended:
            return b""
        begun, number = self._begin(), self._number
        end_as(self.response, self._finish_reason, self._usage)
        try:
            closed = b"" if self.response.error is not None else self._close()
        except NOT_JSON as error:  # a text is looked at only here
            self.failure = f"a text cannot be translated: {error}"
            self._number = number
            return begun + self.failed(_UNREADABLE)
        return begun + closed + self._last()

    def failed(self, error: bytes) -> bytes:
        """Return the last events of a stream that has failed; `error` is JSON.

        The open item stays open: agents run a call that is done, though only half was sampled.
        """
        failure, data = failure_of(error)
        out = self._begin() + self._numbered([(data[1:-1], b"error")])
        return out + self._failed(failure)

    def cancelled(self) -> bytes:
        """Return the last events of a stream that was cancelled: OpenAI has no type for that.

        The open item stays open, as in `failed`.
        """
        out = self._begin()
        self.response.status = "cancelled"
        return out + self._whole(b"response.failed")

    def _event(self, data: bytes) -> bytes:
        item = self._open
        if type(item) is OpenMessage and (text := _text_alone(data)) is not None:
            number = self._number
            self._number = number + 1
            return item.next(text, number)  # nearly always
        chunk = chat.read_chunk(data)
        choices = chunk.choices
        if chunk.error != chat.ABSENT:
            return self.failed(bytes(chunk.error))
        out = b"" if self._started else self._begin(chunk.model)
        choice = chat.first_of(choices or ())
        if choice is not None:
            out += self._choice(choice)
        if chunk.usage != chat.ABSENT:
            self._usage = chat.read_usage(chunk.usage)
        return out

    def _choice(self, choice: chat.ChunkChoice) -> bytes:
        if choice.finish_reason is not None:
            self._finish_reason = choice.finish_reason
        delta = choice.delta
        if delta is None:
            return b""
        out = b""
        thought = delta.reasoning if chat.is_text(delta.reasoning) else delta.reasoning_content
        if chat.is_text(thought):
            out += self._reason(chat.text_of(thought))
        if chat.is_text(delta.content):
            out += self._say(chat.text_of(delta.content), choice.logprobs)
        if chat.is_text(delta.refusal):
            out += self._refuse(chat.text_of(delta.refusal))
        if delta.tool_calls:
            out += self._call(delta.tool_calls)
        return out

    def _say(self, text: bytes, told: msgspec.Raw) -> bytes:
        item, out = self._open, b""
        if not isinstance(item, OpenMessage):
            out = self._close()
            item = self._open = OpenMessage(len(self._items))
            out += self._numbered(item.open())
        tokens = [] if told == chat.ABSENT else logprobs.read(told)
        return out + self._numbered((item.add(text, tokens),))

    def _refuse(self, text: bytes) -> bytes:
        item, out = self._open, b""
        if not isinstance(item, OpenRefusal):
            out = self._close()
            item = self._open = OpenRefusal(len(self._items))
            out += self._numbered(item.open())
        return out + self._numbered((item.add(text),))

    def _reason(self, text: bytes) -> bytes:
        item, out = self._open, b""
        if not isinstance(item, OpenReasoning):
            out = self._close()
            item = self._open = OpenReasoning(len(self._items), sealed=self._sealed)
            out += self._numbered(item.open())
        return out + self._numbered((item.add(text),))

    def _call(self, deltas: list[chat.ToolCallDelta]) -> bytes:
        out = b""
        for delta in deltas:
            if delta.function is not None:
                out += self._call_one(delta, delta.function)
        return out

    def _call_one(self, delta: chat.ToolCallDelta, function: chat.FunctionDelta) -> bytes:
        """Return the events for a part of a call. Raises ValidationError if it is of no open one.

        A caller would run a call of which a part is missing.
        """
        item, out = self._open, b""
        if not isinstance(item, OpenCall | OpenCustomCall) or not _goes_on(item, delta, function):
            if not function.name:
                if chat.is_text(function.arguments):
                    raise ValidationError("arguments of a tool call that is not open")
                return b""
            out = self._close()
            item = self._opened(delta, function.name)
            out += self._numbered(item.open())
        if chat.is_text(function.arguments):
            out += self._numbered(item.add(chat.text_of(function.arguments)))
        return out

    def _opened(self, delta: chat.ToolCallDelta, name: str) -> OpenCall | OpenCustomCall:
        called = self._toolbox.by_name(name)
        kind = OpenCustomCall if called.custom else OpenCall
        told = self._ids.of(delta.id, delta.index)
        self._open = item = kind(len(self._items), delta.index, delta.id or told, told, called)
        return item

    def _begin(self, model: str | None = None) -> bytes:
        if self._started:
            return b""
        self._started = True
        self.response.model = model or self.response.model
        data = b'"response":' + msgspec.json.encode(self.response)
        return self._numbered([(data, b"response.created"), (data, b"response.in_progress")])

    def _close(self) -> bytes:
        item = self._open
        if item is None:
            return b""
        self._open = None
        out = self._numbered(item.close())
        self._items.append(item.done)
        return out

    def _last(self) -> bytes:
        """Return the event of a response that has its final status."""
        if self.response.error is not None:
            return self._failed(self.response.error)
        return self._whole(b"response.completed")

    def _failed(self, failure: Failure) -> bytes:
        fail(self.response, failure.code, failure.message)
        return self._whole(b"response.failed")

    def _whole(self, type_: bytes) -> bytes:
        self.ended = True
        self.response.output = msgspec.Raw(b"[%b]" % b",".join(self._items))
        return self._numbered([(b'"response":' + msgspec.json.encode(self.response), type_)])

    def _numbered(self, parts: Sequence[Part]) -> bytes:
        events = []
        for number, (data, type_) in enumerate(parts, self._number):
            events.append(
                b'event: %b\ndata: {%b,"sequence_number":%d,"type":"%b"}\n\n'
                % (type_, data, number, type_)
            )
        self._number += len(parts)
        return b"".join(events)


def _text_alone(data: bytes) -> bytes | None:
    """Return the text of an event in which there is nothing else, as in nearly all."""
    try:
        choices = chat.decode_step(data).choices
    except NOT_JSON:
        return None
    if not choices:
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.index or choice.finish_reason is not None:
        return None
    content = delta.content
    if (
        delta.tool_calls is not None
        or delta.reasoning is not chat.ABSENT
        or delta.reasoning_content is not chat.ABSENT
        or delta.refusal is not chat.ABSENT
        or content is chat.ABSENT
        or choice.logprobs != chat.ABSENT
    ):
        return None
    text = bytes(content)
    return text if text[0] == _QUOTE and len(text) > 2 else None


def _goes_on(
    item: OpenCall | OpenCustomCall, delta: chat.ToolCallDelta, function: chat.FunctionDelta
) -> bool:
    """Whether a delta is of the open call: some repeat its id and its name, or its number alone."""
    if item.number != delta.index:
        return False
    return not (function.name and delta.id and delta.id != item.call_id)
