"""What a response itself says about its end, read from its last bytes, for any API.

A connection that ends in good order proves nothing, and one that breaks may have carried all of it.
An engine that dies says so in an event and sends `[DONE]`; another ends in good order without it; a
worker may break off after the last finish reason. What tells is in the last events: the finish
reason of each choice (chat, completions), `response.completed`, `.incomplete` or `.failed`
(responses), `message_stop` (messages), an `error`.

vLLM's responses say `completed` if they were aborted, so that abort cannot be told. What ends in
good order before its first token was aborted: an engine counts at least the end of a sequence.
"""

import re
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from gateway.errors import NOT_JSON
from gateway.wire.error_body import error_message
from gateway.wire.reported.repaired import read_repaired
from gateway.wire.request import read_bounds, read_prompts
from gateway.wire.sse import DONE, EventTooLarge, Splitter

ENGINE_ERROR = "engine_error"
"""Code, in metrics and logs, of an engine's error under status 200 or inside a stream."""

_QUOTE = 34
_FINISH_REASON = b'"finish_reason"'
_says_finished = re.compile(rb'"finish_reason"\s*:\s*"(?!(?:null)?")').match
_QUOTED_400 = re.compile(r"'code': 4\d\d\b")
_NOTHING = frozenset((b"", b"null", b'""'))
_MAX_MESSAGE = 500


class Ends(Protocol):
    """What of an Api matters to the end of its responses, see gateway.wire.dialect."""

    @property
    def work(self) -> str: ...
    @property
    def tells_end(self) -> bool: ...
    @property
    def prompts(self) -> str: ...
    @property
    def nested(self) -> bool: ...


class Ending(msgspec.Struct, frozen=True, gc=False):
    """The end of one response. `finished`: each choice has ended; None if the bytes do not say.

    `aborted`: the engine was told to stop. `error` is the message of the engine's error, or the
    status of a response that is one; `fault`: the error says nothing against the request, so it is
    the engine's.
    """

    finished: bool | None = None
    aborted: bool = False
    error: str | None = None
    fault: bool = False


UNKNOWN = Ending()
FINISHED = Ending(finished=True)


class Tail(msgspec.Struct, frozen=True, gc=False):
    """The last bytes of a response. `whole`: they are all of it. `complete`: nothing follows."""

    text: bytes
    whole: bool
    complete: bool


def ending_of_stream(api: Ends | None, tail: Tail, request: bytes) -> Ending:
    """Return how a stream ended; `request` is the body of its request. Never raises.

    If no more follows, choices that are not in the tail count as finished; a stream that is cut has
    to show a finish reason for each choice that the request asks for.
    """
    if api is None or api.work != "generates":
        return UNKNOWN
    seen = _Seen()
    for data in _data_of(tail.text):
        seen.add(data)
    return seen.of_stream(api, tail, request)


def ending_of_answer(api: Ends | None, tail: Tail) -> Ending:
    """Return how a plain response of status 200 ended. Never raises."""
    if api is None or api.work not in ("generates", "reads") or not (tail.complete and tail.whole):
        return UNKNOWN
    said = _read(tail.text)
    if said is None:
        return UNKNOWN
    seen = _Seen()
    seen.add_answer(said)
    return seen.of_answer()


def ends_as_most(text: bytes) -> bool:
    """Whether the end of a stream of a Dialect is a finish reason and then `[DONE]`, and no error
    or abort is in it.

    Cheap, and certain only if True. In a text of the model all quotation marks are escaped.
    """
    if (
        text.rfind(b'"error"') >= 0
        or text.rfind(b'"abort') >= 0
        or b"\nevent:" in text
        or not text.endswith(b"data: [DONE]\n\n")
    ):
        return False
    last = text.rfind(b'"finish_reason":"')
    if last < 0 or text[last + 17] == _QUOTE or text.startswith(b'null"', last + 17):
        return False
    return b'"finish_reason":' not in text[last + 17 :]


def is_as_most(text: bytes) -> bool:
    """Whether no error, abort or unfinished choice is in a plain response of a Dialect.

    Cheap, and certain only if True, as `ends_as_most` is: rfind takes a third of the time of `in`
    or `find`, and less than decoding.
    """
    if text.rfind(b'"error"') >= 0 or text.rfind(b'"abort') >= 0:
        return False
    place, finished = text.rfind(_FINISH_REASON), False
    while place >= 0:
        finished = _says_finished(text, place) is not None
        if not finished:
            return False
        place = text.rfind(_FINISH_REASON, 0, place)
    return finished


class _Choice(msgspec.Struct, gc=False):
    index: Any = 0
    finish_reason: Any = None


class _Delta(msgspec.Struct, gc=False):
    stop_reason: Raw = Raw()


class _Count(msgspec.Struct, gc=False):
    completion_tokens: Any = None
    output_tokens: Any = None


class _Response(msgspec.Struct, gc=False):
    usage: _Count | None = None


class _Said(msgspec.Struct, gc=False):
    """An event, or a plain response."""

    usage: Raw = Raw()
    choices: list[_Choice] | None = None
    error: Raw = Raw()
    type: Any = None
    object: Any = None
    status: Any = None
    stop_reason: Any = None
    code: Any = None
    message: Any = None
    detail: Raw = Raw()
    delta: Raw = Raw()
    response: Raw = Raw()


_decode = msgspec.json.Decoder(_Said).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_count = msgspec.json.Decoder(_Count | None).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_any = msgspec.json.Decoder().decode


class _Seen:
    """What the events say, one after the other."""

    def __init__(self) -> None:
        self._open: set[object] = set()
        self._finished: set[object] = set()
        self._over = self._aborted = self._stopped = False
        self._done = self._begun = self._none_sampled = False
        self._error: str | None = None
        self._fault = False

    def add(self, data: bytes) -> None:
        """Add an event; one that cannot be decoded says nothing."""
        if data == DONE:
            self._done = True
            return
        said = _read(data)
        if said is None:
            return
        if bytes(said.usage) not in _NOTHING:
            self._none_sampled = _counts_none(bytes(said.usage))
        self._add_choices(said)
        self._add_error(said)
        if isinstance(said.type, str):
            self._add_type(said.type, said)

    def add_answer(self, said: _Said) -> None:
        """Add a whole plain response."""
        self._add_choices(said)
        self._add_error(said)
        if said.choices is None and bytes(said.detail) not in _NOTHING:
            value = _any(bytes(said.detail))
            self._fail(error_message(value), value)
        if said.object == "response":
            self._over = said.status in ("completed", "incomplete")
            none = said.status == "completed" and _counts_none(bytes(said.usage))
            self._aborted |= said.status == "cancelled" or none
        elif said.type == "message":
            self._over = True
            self._aborted |= said.stop_reason is None

    def of_stream(self, api: Ends, tail: Tail, request: bytes) -> Ending:
        aborted = self._aborted or (tail.whole and tail.complete and self._ended_at_once())
        return Ending(self._is_finished(api, tail, request), aborted, self._error, self._fault)

    def _ended_at_once(self) -> bool:
        """Whether a whole stream ended in good order and nothing was sampled."""
        ended = self._done or self._over
        sampled = self._begun or self._finished or not self._none_sampled
        return ended and not sampled and self._error is None

    def of_answer(self) -> Ending:
        finished = self._over or (self._open <= self._finished if self._open else None)
        return Ending(finished, self._aborted, self._error, self._fault)

    def _is_finished(self, api: Ends, tail: Tail, request: bytes) -> bool | None:
        if self._over:
            return True
        if not self._open:
            return False if api.tells_end and tail.whole and tail.complete else None
        if not self._open <= self._finished:
            return False
        return tail.complete or len(self._finished) >= _choices_of(api, request)

    def _add_choices(self, said: _Said) -> None:
        for choice in said.choices or ():
            index = choice.index if isinstance(choice.index, int) else 0
            self._open.add(index)
            reason = choice.finish_reason
            if isinstance(reason, dict):  # SGLang's own form
                reason = reason.get("type")
            if reason and reason != "null":  # some engines send the word while a choice goes on
                self._finished.add(index)
                self._aborted |= reason == "abort"
                if reason == "error":
                    self._fail("a choice ended with finish_reason error", None)

    def _add_error(self, said: _Said) -> None:
        error = bytes(said.error)
        if error not in _NOTHING:
            value = _any(error)
            self._fail(error_message(value), value)
        elif "error" in (said.type, said.object):
            self._fail(said.message if isinstance(said.message, str) else None, {"code": said.code})

    def _add_type(self, kind: str, said: _Said) -> None:
        if kind in ("response.completed", "response.incomplete", "message_stop"):
            self._over = True
            self._aborted |= self._stopped
            if bytes(said.response) not in _NOTHING:
                self._none_sampled = _none_in(bytes(said.response))
        elif kind in ("response.output_item.added", "content_block_start"):
            self._begun = True
        elif kind == "response.failed":
            response = _any(bytes(said.response))
            error = response.get("error") if isinstance(response, dict) else None
            self._fail(error_message(error), error)
        elif kind == "response.cancelled":
            self._aborted = True
        elif kind == "message_delta":
            self._stopped = _stop_reason(bytes(said.delta)) == b"null"
            self._over |= not self._stopped

    def _fail(self, message: str | None, error: object) -> None:
        if self._error is None:
            self._error = (message or "an error without a message")[:_MAX_MESSAGE]
            self._fault = not _is_of_the_request(error)


def _is_of_the_request(error: object) -> bool:
    """Whether the error says by a status below 500 that the request is at fault.

    vLLM's messages quote the error of its own chat in the message.
    """
    if not isinstance(error, dict):
        return False
    if _QUOTED_400.search(str(error.get("message"))[: _MAX_MESSAGE * 4]):
        return True
    for name in ("code", "status", "status_code"):
        code = error.get(name)
        if isinstance(code, str) and code.isdigit() and len(code) == 3:
            code = int(code)
        if isinstance(code, int) and 400 <= code <= 599:
            return code < 500
    kind = error.get("type")
    return isinstance(kind, str) and kind.startswith(("invalid_request", "BadRequest"))


def _choices_of(api: Ends, request: bytes) -> int:
    prompts = read_prompts(request, api.prompts).count if api.prompts else 1
    return prompts * max(read_bounds(request, nested=api.nested).n or 1, 1)


def _counts_none(usage: bytes) -> bool:
    """Whether a usage says that no token was sampled."""
    try:
        count = _decode_count(usage)
    except NOT_JSON:
        return False
    return count is not None and 0 in (count.completion_tokens, count.output_tokens)


def _none_in(response: bytes) -> bool:
    """Whether the usage within a response says that no token was sampled."""
    try:
        usage = _decode_response(response).usage
    except NOT_JSON:
        return False
    return usage is not None and usage.output_tokens == 0


def _stop_reason(delta: bytes) -> bytes:
    try:
        return bytes(_decode_delta(delta).stop_reason) or b"null"
    except NOT_JSON:
        return b"null"


def _read(text: bytes) -> _Said | None:
    try:
        return _decode(text)
    except NOT_JSON:  # an engine may have written a logprob as -Infinity
        return read_repaired(_decode, text)


def _any(value: bytes) -> Any:
    try:
        return _decode_any(value)
    except NOT_JSON:
        return value.decode(errors="replace")


def _data_of(text: bytes) -> Iterator[bytes]:
    """Yield the data of each event; what is left of an event at the beginning decodes to nothing.

    The last event may lack its blank line.
    """
    splitter = Splitter(len(text))
    try:
        events = [*splitter.feed(text), *splitter.close()]
    except EventTooLarge:
        return
    for event in events:
        if event.data is not None:
            yield event.data if event.event != "error" else _as_error(event.data)


def _as_error(data: bytes) -> bytes:
    """Return the data of an event that only its name tells to be an error as one that says so."""
    if b'"error"' in data:
        return data
    try:
        return msgspec.json.encode({"error": _decode_any(data)})
    except NOT_JSON:
        return msgspec.json.encode({"error": data.decode(errors="replace")})
