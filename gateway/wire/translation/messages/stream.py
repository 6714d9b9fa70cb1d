"""The events of a Messages stream, made of chat's as they come."""

import random
from typing import Literal

import msgspec
from msgspec import Raw, ValidationError

from gateway.errors import NOT_JSON
from gateway.wire import surrogates
from gateway.wire.apis.anthropic_errors import error_event
from gateway.wire.translation.chat import (
    ABSENT,
    EMPTY,
    ENDED_EARLY,
    GIVEN_UP,
    NO_DELTA,
    CallIds,
    Chunk,
    ChunkChoice,
    Delta,
    ToolCallDelta,
    decode_step,
    encode,
    first_of,
    is_text,
    read_chunk,
    read_usage,
    text_of,
)
from gateway.wire.translation.messages.stop import is_json, stop_of
from gateway.wire.translation.messages.usage import usage_json

PING = b'event: ping\ndata: {"type":"ping"}\n\n'

STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"type":'

_BEFORE = {
    "text": _DELTA + b'"text_delta","text":',
    "thinking": _DELTA + b'"thinking_delta","thinking":',
    "tool_use": _DELTA + b'"input_json_delta","partial_json":',
}

_TEXT_AT = len(_BEFORE["text"])

_SIGNATURE = _DELTA + b'"signature_delta","signature":"%032x"},"index":%d}\n\n'

_START = (
    b'event: content_block_start\ndata: {"type":"content_block_start","content_block":%b,'
    b'"index":%d}\n\n'
)

_END = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'

_EMPTY_TEXT = b'{"type":"text","text":""}'
_EMPTY_THINKING = b'{"type":"thinking","thinking":""}'

_MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":%b,"type":"message",'
    b'"role":"assistant","content":[],"model":%b,"stop_reason":null,"stop_sequence":null,'
    b'"usage":%b}}\n\n'
)

_MESSAGE_DELTA = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":%b,'
    b'"stop_sequence":%b},"usage":%b}\n\n'
)

_NO_USAGE = Raw(b"null")

CUT = b'"%b"' % ENDED_EARLY.encode()

UNREADABLE = b'"the worker sent an event that is no chat event"'

MAX_KEPT = 64 * 1024 * 1024
"""Bytes that wait within a tool call; a stream with more fails."""

_QUOTE = ord('"')

Kind = Literal["", "text", "thinking", "tool_use"]
"""Of the block that is open, "" if none is."""


class MessagesStream:
    """Makes the events of one stream. `keeps_arguments`: a stop string may cut a tool call.

    `_before` and `_after` stand around the text of a delta of the open block. Text that comes
    within a tool call waits in `_pending` until the call's block is closed. `_tool` and `_number`
    are the id and chat's number of the call that is open, `_next` an id whose name has not come.
    `failure`: see translation.ResponseTranslator.
    """

    __slots__ = (
        "_after",
        "_arguments",
        "_before",
        "_finish",
        "_ids",
        "_index",
        "_keeps_arguments",
        "_kind",
        "_next",
        "_number",
        "_pending",
        "_refused",
        "_room",
        "_state",
        "_stop",
        "_tool",
        "_usage",
        "_used_tool",
        "failure",
    )

    def __init__(self, *, keeps_arguments: bool) -> None:
        self._state: Literal["new", "begun", "told", "failed"] = "new"
        self._kind: Kind = ""
        self._index = 0
        self._before = self._after = b""
        self._ids = CallIds()
        self._tool: str | None = None
        self._number = 0
        self._next: str | None = None
        self._used_tool = self._refused = False
        self._pending: list[bytes] = []
        self._room = MAX_KEPT
        self._keeps_arguments = keeps_arguments
        self._arguments: list[bytes] = []
        self._finish: str | None = None
        self._stop: int | str | None = None
        self._usage = _NO_USAGE
        self.failure: str | None = None

    def event(self, data: bytes) -> bytes:
        """Return the events for the data of one chat event. Never raises."""
        try:
            return self._event(data)
        except NOT_JSON as error:
            if self._state != "failed":
                self.failure = f"an event cannot be translated: {error}"
            return self._fail(UNREADABLE)

    def _event(self, data: bytes) -> bytes:
        try:
            choices = decode_step(data).choices
        except NOT_JSON:
            data = surrogates.readable(data)
            choices = decode_step(data).choices
        if not choices or choices[0].index or self._state != "begun":
            return self._rare(read_chunk(data))
        choice = choices[0]
        if choice.finish_reason is not None:
            return self._rare(read_chunk(data))
        delta = choice.delta or NO_DELTA
        content = delta.content
        if (
            self._kind == "text"
            and content is not ABSENT
            and delta.tool_calls is None
            and delta.reasoning is ABSENT
            and delta.reasoning_content is ABSENT
            and delta.refusal is ABSENT
            and content != EMPTY
            and content != ABSENT
        ):  # nearly always
            made = b"".join((self._before, content, self._after))
            if made[_TEXT_AT] != _QUOTE:
                raise ValidationError("a text is no string")
            return made
        return self._grown(delta)

    def end(self, *, done: bool) -> bytes:
        """Return the last events, an error if the message is not whole. Never raises.

        `done` proves nothing: an engine that dies may end its stream in the usual way. A caller
        that got message_stop would run a tool call of which only half was sampled, and clients
        take a stream that just ends for a message that is whole.
        """
        if self._finish is None:
            return self._fail(CUT)
        if self._state == "begun":
            return self._told(self._usage) + STOP
        return STOP if self._state == "told" else b""

    def _rare(self, chunk: Chunk) -> bytes:
        """Return the events for the first chunk, those of the end, or an error."""
        if self._state == "failed":
            return b""
        if chunk.error != _NO_USAGE:
            return self._fail(bytes(chunk.error))
        if self._state == "told":
            return b""
        started = b""
        if self._state == "new":
            self._state, started = "begun", _message_start(chunk)
        if chunk.choices:
            choice = first_of(chunk.choices)
            return started if choice is None else started + self._of_first(choice, chunk)
        if started or chunk.usage == _NO_USAGE or self._finish is None:
            return started
        return self._told(chunk.usage)

    def _of_first(self, choice: ChunkChoice, chunk: Chunk) -> bytes:
        """Return the events for the message, and an error if the engine gave it up with this."""
        if choice.finish_reason is not None:
            self._finish, self._stop = choice.finish_reason, choice.stop_reason
            self._usage = chunk.usage
        grown = self._grown(choice.delta or NO_DELTA)
        return grown + self._fail(CUT) if choice.finish_reason in GIVEN_UP else grown

    def _fail(self, error: bytes) -> bytes:
        if self._state == "failed":
            return b""
        self._state = "failed"
        return error_event(error)

    def _grown(self, delta: Delta) -> bytes:
        """Return the events for what a delta adds: reasoning, text, a refusal, calls."""
        made: list[bytes] = []
        reasoning = delta.reasoning if is_text(delta.reasoning) else delta.reasoning_content
        if is_text(reasoning):
            if self._kind != "thinking":
                made += (self._closed(), self._opened("thinking", _EMPTY_THINKING))
            made += (self._before, text_of(reasoning), self._after)
        if is_text(delta.content):
            made += self._text(text_of(delta.content))
        if is_text(delta.refusal):
            self._refused = True
            made += self._text(text_of(delta.refusal))
        for call in delta.tool_calls or ():
            made += self._call(call)
        return b"".join(made)

    def _text(self, content: bytes) -> tuple[bytes, ...]:
        if self._kind == "tool_use":
            self._pending.append(self._kept(content))
            return ()
        opened = b""
        if self._kind != "text":
            opened = self._closed() + self._opened("text", _EMPTY_TEXT)
        return opened, self._before, content, self._after

    def _kept(self, text: bytes) -> bytes:
        """Return what is between the quotes of a text that waits. Raises ValidationError."""
        self._room -= len(text)
        if self._room < 0:
            raise ValidationError("too much waits for the end of a tool call")
        return text[1:-1]

    def _call(self, call: ToolCallDelta) -> tuple[bytes, ...]:
        """Return the events for a part of a call. Raises ValidationError if it is of no open one.

        A caller would run a call of which a part is missing.
        """
        function, opened = call.function, b""
        if call.id and call.id != self._tool:
            self._next = call.id
        if function is None:
            return ()
        if function.name and self._begins(call):
            opened = self._closed() + self._opened_call(call.index, function.name)
        if not is_text(function.arguments):
            return (opened,)
        if self._kind != "tool_use" or call.index != self._number:
            raise ValidationError("arguments of a tool call that is not open")
        arguments = text_of(function.arguments)
        if self._keeps_arguments:
            self._arguments.append(self._kept(arguments))
        return opened, self._before, arguments, self._after

    def _begins(self, call: ToolCallDelta) -> bool:
        """Whether a delta with a name is the first one of a call: some repeat the name."""
        if self._kind != "tool_use" or call.index != self._number:
            return True
        return bool(call.id) and call.id != self._tool

    def _opened_call(self, number: int, name: str) -> bytes:
        """Begin a call; one to which its server gave no id gets one."""
        given, self._next = self._next, None
        id_ = self._ids.of(given, number)
        self._used_tool, self._arguments, self._number = True, [], number
        head = b'{"type":"tool_use","id":%b,"name":%b,"input":{}}' % (encode(id_), encode(name))
        opened = self._opened("tool_use", head)
        self._tool = given or id_
        return opened

    def _opened(self, kind: Kind, block: bytes) -> bytes:
        self._kind = kind
        self._before, self._after = _BEFORE[kind], b'},"index":%d}\n\n' % self._index
        return _START % (block, self._index)

    def _closed(self) -> bytes:
        """Close the open block; text that waited for its end becomes a block of its own."""
        if not self._kind:
            return b""
        closed = _END % self._index
        if self._kind == "thinking":
            closed = _SIGNATURE % (random.getrandbits(128), self._index) + closed
        self._kind, self._tool = "", None
        self._index += 1
        if self._pending:
            text, self._pending = b'"%b"' % b"".join(self._pending), []
            opened = self._opened("text", _EMPTY_TEXT)
            closed += opened + self._before + text + self._after + self._closed()
        return closed

    def _told(self, usage: Raw) -> bytes:
        """Return the end of the last block, and why the message ended."""
        self._state = "told"
        closed = self._closed()
        whole = self._used_tool and (
            not self._keeps_arguments or is_json(_unquoted(self._arguments))
        )
        reason, sequence = stop_of(
            self._finish,
            self._stop,
            used_tool=self._used_tool,
            whole_tool=whole,
            refused=self._refused,
        )
        count = usage_json(read_usage(usage))
        return closed + _MESSAGE_DELTA % (encode(reason), encode(sequence), count)


def _message_start(chunk: Chunk) -> bytes:
    usage = usage_json(read_usage(chunk.usage))
    return _MESSAGE_START % (encode(chunk.id or ""), encode(chunk.model or ""), usage)


def _unquoted(parts: list[bytes]) -> bytes:
    """Return the text of a JSON string that came in parts."""
    try:
        return msgspec.json.decode(b'"%b"' % b"".join(parts), type=str).encode()
    except NOT_JSON:
        return b""
