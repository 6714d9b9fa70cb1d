"""Stands before the caller of a translated call: chat goes in, the caller's own API comes out."""

from collections.abc import Callable

import msgspec

from gateway.calls.reply import Caller
from gateway.errors import UpstreamError
from gateway.headers import Headers, Lines, is_event_stream
from gateway.wire.sse import DONE, EventTooLarge, Splitter
from gateway.wire.translation.translation import ResponseTranslator, Settling, Unreadable


class Failure(msgspec.Struct):
    """Why callers got an error in place of the worker's response; its status, 200 in a stream.

    `unreadable` is None as long as there is none. Exchanges look here, and are not called: they
    would refer to what refers to them.
    """

    unreadable: Unreadable | None = None
    status: int = 200


JSON = (b"content-type", b"application/json")
_LENGTH = frozenset({b"content-length"})
_RECODED = frozenset({b"content-length", b"content-encoding"})
_BODY = frozenset({b"content-length", b"content-type", b"content-encoding"})
"""Headers of a body that is not the worker's own."""


class TranslatingCaller:
    """A Caller (see Reply) that translates what goes to `caller`.

    A stream is translated event by event; any other response once it is whole, of at most
    `max_bytes`. What ends a stream for its reader is sent by `end` alone, after the commit.
    `streams`: the head of an event stream has been sent already. `failure`
    has why the caller gets an error, before the call is recorded.
    """

    __slots__ = (
        "_between",
        "_caller",
        "_done",
        "_failure",
        "_head",
        "_last",
        "_left",
        "_max_bytes",
        "_parts",
        "_ready",
        "_settling",
        "_splitter",
        "_streams",
        "_translator",
        "call_id",
    )

    def __init__(
        self,
        caller: Caller,
        translator: ResponseTranslator,
        call_id: str,
        max_bytes: int,
        *,
        streams: bool,
        failure: Failure | None = None,
        settling: Settling | None = None,
    ) -> None:
        self.call_id = call_id
        self._caller = caller
        self._translator = translator
        self._max_bytes = self._left = max_bytes
        self._splitter = Splitter(max_bytes)
        self._streams = streams
        self._between = True
        self._done = False
        self._failure = failure or Failure()
        self._head: tuple[int, Headers] = (200, ())
        self._parts: list[bytes] = []
        self._last: bytes | None = None
        self._ready: bytes | None = None
        self._settling = settling
        if settling is not None:
            settling.begin(self._send)

    @property
    def drained(self) -> Callable[[], None]:
        return self._caller.drained

    @drained.setter
    def drained(self, callback: Callable[[], None]) -> None:
        self._caller.drained = callback

    def start(self, status: int, headers: Headers) -> None:
        self._head = (status, headers)
        self._streams = is_event_stream(headers) and status == 200
        if self._streams:
            self._caller.start(status, _without(_RECODED, headers))

    def write(self, data: bytes) -> bool:
        if not self._streams:
            return self._keep(data)
        if self._between and data[:6] == b"data: " and data.find(b"\n") == len(data) - 2:
            event = data[6:-2]
            if event != DONE:  # nearly always: one event
                return self._caller.write(self._translator.event(event))
        return self._caller.write(self._translated(data))

    def cut(self) -> None:
        self._tell_failure()
        if not self._streams and self._head[1]:
            self._caller.start(*self._head)
        self._caller.cut()

    async def settle(self, last: bytes) -> None:
        """Wait for what the translator needs for the `last` bytes. Raises CallError."""
        if self._settling is None:
            return
        if self._streams:
            self._ready = self._translated(last)
            await self._settling.settle(b"")
        elif self._head[0] == 200 and self._left >= len(last):
            await self._settling.settle(b"".join([*self._parts, last]))

    def close(self) -> None:
        if self._settling is not None:
            self._settling.close()

    def receive_last(self, data: bytes) -> None:
        """Translate the last bytes before the call is recorded: plugins see how it ended.

        The caller of an internal call gets them too, if it wants them.
        """
        self._last = self._finished(data)
        receive: Callable[[bytes], None] | None = getattr(self._caller, "receive_last", None)
        if receive is not None:
            receive(self._last)

    async def end(self, data: bytes) -> None:
        last, self._last = self._last, None
        await self._caller.end(self._finished(data) if last is None else last)

    def _send(self, data: bytes) -> bool:
        """Send events of the settling: after those that were translated before them."""
        if self._ready:
            data, self._ready = self._ready + data, b""
        return self._caller.write(data)

    def _keep(self, data: bytes) -> bool:
        """Keep a part of a response that can be translated only as a whole."""
        self._left -= len(data)
        if self._left >= 0:
            self._parts.append(data)
        else:
            self._parts.clear()
        return True

    def _translated(self, data: bytes) -> bytes:
        try:
            events = self._splitter.feed(data)
        except EventTooLarge:
            self._splitter.take_rest()
            return self._translator.event(b"")
        self._between = self._splitter.between_events
        return b"".join([self._one(event.raw, event.data) for event in events])

    def _one(self, raw: bytes, data: bytes | None) -> bytes:
        if data is None:
            return self._translator.comment() if raw.startswith(b":") else b""
        if data == DONE:
            self._done = True
            return b""
        return self._translator.event(data)

    def _finished(self, data: bytes) -> bytes:
        """Return the last bytes; of a response that is no stream, begin it and return all."""
        if not self._streams:
            self._keep(data)
            return self._whole()
        sent = self._translated(data) if self._ready is None else self._ready
        rest = b"".join([self._one(one.raw, one.data) for one in self._splitter.close()])
        last = self._translator.end(done=self._done)
        self._tell_failure()
        return sent + rest + last

    def _tell_failure(self) -> None:
        """Tell of a stream that could not be translated."""
        if self._streams and (why := self._translator.failure) is not None:
            self._failure.unreadable = Unreadable(why)

    def _whole(self) -> bytes:
        (status, headers), theirs = self._head, b"".join(self._parts)
        self._parts.clear()
        try:
            body = self._plain(status, theirs)
        except Unreadable as unreadable:
            error = UpstreamError(str(unreadable))
            status, body = error.status, error.body()
            body = self._translator.refusal(status, body, self.call_id)
            self._failure.unreadable, self._failure.status = unreadable, status
        length = (b"content-length", b"%d" % len(body))
        if body is theirs:
            lines: Lines = [length, *_without(_LENGTH, headers)]
        else:
            lines = [JSON, length, *_without(_BODY, headers)]
        self._caller.start(status, lines)
        return body

    def _plain(self, status: int, body: bytes) -> bytes:
        """Return the translated body. Raises Unreadable."""
        if self._left < 0:
            raise Unreadable(
                f"the worker's response is larger than {self._max_bytes} bytes "
                "(server_limits.max_body_bytes)"
            )
        if status >= 400:
            return self._translator.refusal(status, body, self.call_id)
        return self._translator.answer(body)


def _without(names: frozenset[bytes], headers: Headers) -> Lines:
    return [line for line in headers if line[0] not in names]
