"""Carries one response to the caller, inside the worker's read callback."""

import asyncio
from time import monotonic
from typing import Protocol

from gateway.calls.call import gateway_headers
from gateway.calls.records import Attempt
from gateway.config import Config
from gateway.errors import CallerStalled, FirstByteTimeout, GatewayError, IdleTimeout
from gateway.headers import (
    CORS_HEADERS,
    PLAIN,
    Headers,
    body_headers,
    is_event_stream,
    is_plain,
    one_set_of_limits,
    with_length,
)
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.readers import Discarding, Reader, choose_reader, wants_plain
from gateway.pipeline.refused import InjectionRefused, hold
from gateway.pipeline.streams.sniffing import Sniffing
from gateway.pipeline.streams.tapping import Tapping, tapping_of
from gateway.upstream.location import REFERENCES, references
from gateway.upstream.phase_timer import Alarm, PhaseTimer
from gateway.upstream.response import BODILESS, HOP_BY_HOP, without
from gateway.wire.content_coding import ContentDecoder, decoder_of, is_identity
from gateway.wire.injection import Stripper
from gateway.wire.reported.ending import (
    FINISHED,
    UNKNOWN,
    Ending,
    Tail,
    ending_of_answer,
    ending_of_stream,
    ends_as_most,
    is_as_most,
)

EVENT_STREAM = (b"content-type", b"text/event-stream")

JSON = (b"content-type", b"application/json")

OWN = frozenset({b"x-request-id", b"x-gateway-worker", b"x-gateway-attempts"})
DROPPED = HOP_BY_HOP | OWN | REFERENCES
DROPPED_WITH_CORS = DROPPED | CORS_HEADERS


NO_READS = (b"", b"", b"", b"")
"""The last reads of a response that has none yet: the end of a stream is in few of them, and more
would keep long responses in memory."""


class Source(Protocol):
    """Source of a response, as far as the relay controls its flow."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def alarm(self) -> Alarm: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Relay(PhaseTimer):
    """The Receiver of one response (see upstream.connection), from a worker or a `handle` hook.

    `done` returns the last bytes, which have not been sent to the caller yet, or raises what ended
    the attempt: a CallError, CallerGone, or HeldBack. `complete`: the source has sent all of it.
    """

    __slots__ = (
        "_attempt",
        "_decoder",
        "_dropped",
        "_events",
        "_exchange",
        "_headers",
        "_reader",
        "_recent",
        "_settings",
        "_source",
        "_status",
        "_tapping",
        "_waits",
        "complete",
        "done",
    )

    def __init__(
        self, exchange: Exchange, attempt: Attempt | None, source: Source, settings: Config
    ) -> None:
        super().__init__(source.loop, source.alarm)
        self.done: asyncio.Future[bytes] = source.loop.create_future()
        self._exchange = exchange
        self._attempt = attempt
        self._source = source
        self._settings = settings
        self._dropped = DROPPED_WITH_CORS if settings.cors.origins else DROPPED
        self._reader: Reader | None = None
        self._decoder: ContentDecoder | None = None
        self._status = 0
        self.complete = False
        self._recent: tuple[bytes, ...] = NO_READS
        self._tapping: Tapping | None = None
        self._waits = False

    def await_first_byte(self) -> None:
        """Start the timeout for the first byte: the whole request has been sent, or is about to."""
        if not self._status:
            self.enter(self._settings.timeouts.first_byte, FirstByteTimeout)

    # called by the source of the response

    def on_headers(
        self, status: int, headers: Headers, *, alone: bool = False, whole: bool = False
    ) -> None:
        self._status = status
        self._headers = headers
        attempt = self._attempt
        if attempt is not None:
            attempt.status = status
            if attempt.first_byte is None:
                attempt.first_byte = attempt.heard = monotonic()
        self._waits = alone
        kind, coding = body_headers(headers)
        self._events = kind is not None and kind[:17].lower() == EVENT_STREAM[1]
        exchange = self._exchange
        exchange.reply.caller.drained = self._resume
        if self._events:
            exchange.cancel_scope.has_all = self._has_all
        if not whole:
            self.enter(self._settings.timeouts.idle, IdleTimeout)
        if coding not in PLAIN and not self._decodes(coding or b""):
            return
        call = exchange.call
        text = call.body.data or b""
        # If the head of the request has been read, it tells. Else rfind is cheap: it takes a third
        # of the time of `in`, and prompts may be long.
        known = not call.body.may_have_several
        may_stream = known or text.rfind(b'"stream"') >= 0 or call.overwritten
        if self._events:
            # A stream that nobody asked for may be none. Unless something has to be taken out of
            # it, its head must not wait for its first bytes: they may be long in coming.
            injected = exchange.stripper is not None
            doubtful = injected and b"true" not in text and not call.streams
        else:
            doubtful = bool(may_stream) and call.streams
        if doubtful and status == 200:
            self._events = False  # until its first bytes tell
            self._reader = Sniffing(self._sniffed)
        else:
            self._reader = self._chosen(self._headers)
        if self._events or not (self._reader or self._decoder) or not self._rewrites:
            self._start(None)
            if alone:
                exchange.reply.send_head()

    def on_body(self, data: bytes) -> None:
        if self._waits:
            self._hear()
        tapping = self._tapping
        if tapping is not None and tapping.is_offered:
            self._settle()
        self._last = self._loop.time()
        try:
            if self._decoder is not None:
                data = self._decoder.feed(data)
            _, two, three, four = self._recent
            self._recent = (two, three, four, data)
            if self._reader is not None:
                data = self._reader.feed(data)
        except GatewayError as error:
            self._fail(error)
            return
        if data:
            reply = self._exchange.reply
            if not reply.begun:
                self._start(None)
            if not reply.write(data):
                self._pause()
        elif not self._exchange.reply.begun:
            self._waits = True
        if tapping is not None:
            tapping.offer()

    def on_end(self, data: bytes) -> None:
        if self._waits:
            self._hear()
        if self._tapping is not None:
            self._settle()
        self.complete = True
        try:
            if self._decoder is not None:
                data = self._decoder.feed(data)
                self._decoder.close()
            if data:
                _, two, three, four = self._recent
                self._recent = (two, three, four, data)
            if self._reader is not None:
                data = (self._reader.feed(data) if data else b"") + self._reader.close()
                if data and self._reader.rewrites and not (self._events or self._recent[2]):
                    self._recent = (b"", b"", b"", data)  # the same response, but shorter
        except GatewayError as refused:
            self._fail(refused)
        if not self.done.done():
            if not self._exchange.reply.begun:
                self._start(len(data))
            self.done.set_result(data)

    def _hear(self) -> None:
        """Take the time of a part before which the head could not go to the caller."""
        self._waits = False
        if self._attempt is not None and not self._exchange.reply.begun:
            self._attempt.heard = monotonic()

    def on_error(self, error: GatewayError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    timed_out = on_error

    def close(self) -> None:
        """Stop the timer and detach from the caller: nothing more is received or handled.

        Records what the response said about its end.
        """
        if self._tapping is not None:
            self._settle()
            self._tapping = None
        self.leave()
        exchange = self._exchange
        exchange.reply.caller.drained = _nothing
        exchange.cancel_scope.has_all = None
        if not self.complete and self._status and self._events and exchange.stripper is not None:
            self._release(exchange.stripper)
        ending = exchange.call.outcome.ending = self._ending()
        if self._attempt is not None:
            self._attempt.ending = ending

    def _settle(self) -> None:
        """Take note of what a tap has carried past this relay."""
        done = self._tapping.settle() if self._tapping is not None else None
        if done is not None:
            size, end, recent = done
            self._exchange.reply.passed(size, end)
            self._recent = (*self._recent, *recent)[-len(NO_READS) :]

    @property
    def last(self) -> float:
        if self._tapping is None:
            return self._last
        return max(self._last, self._loop.time() - self._tapping.silent_for)

    def _release(self, stripper: Stripper) -> None:
        """Send the whole events that wait for a usage which a broken stream will not bring."""
        exchange = self._exchange
        held = stripper.close()
        if held and exchange.reply.begun and not exchange.cancel_scope.caller_left:
            exchange.reply.write(held)

    def _has_all(self) -> bool:
        """Whether all that the caller asked for has arrived, so that little can follow."""
        self._settle()
        if not self._ending().finished:
            return False
        self._resume()
        return True

    def _ending(self) -> Ending:
        status, call = self._status, self._exchange.call
        if status >= 400:
            return Ending(error=f"status {status}")
        if not status:
            return UNKNOWN
        _, _, third, text = self._recent
        whole, request = not self._recent[0], call.body.data or b""
        if third:
            text = b"".join(self._recent)
        if self.complete and call.dialect is not None and request.rfind(b'"n"') < 0:
            as_most = ends_as_most(text) if self._events else whole and is_as_most(text)
            if as_most:
                return FINISHED
        if not is_plain(self._headers):
            return UNKNOWN
        tail = Tail(text, whole, self.complete)
        counter = self._exchange.observers.counter
        if not whole and counter is not None and (kept := counter.kept):
            tail = Tail(b"".join(kept), whole=True, complete=self.complete)
        if self._events and not (
            whole and text.startswith(b"{")
        ):  # or plain, announced as a stream
            return ending_of_stream(call.api, tail, request)
        return ending_of_answer(call.api, tail)

    def _chosen(self, headers: Headers) -> Reader | None:
        """Choose the reader, and show the head to the observers unless the response is held."""
        status, events, exchange = self._status, self._events, self._exchange
        observers, limits = exchange.observers, self._settings.server_limits
        watched = observers.started or observers.counts_tokens
        may_be_held = status >= 400 and not events
        if watched and not may_be_held:
            observers.notify_started(status, headers, events=events)
        reader = choose_reader(exchange, status, headers, limits, events=events)
        if may_be_held:
            held = self._held(status, headers, reader)
            if held is not None:
                return held
            if watched:
                observers.notify_started(status, headers, events=events)
        elif events and self._decoder is None:
            self._tapping = tapping_of(exchange, self._source, reader, self._pause)
        return reader

    def _sniffed(self, events: bool) -> Reader | None:
        """Choose the reader of a response after its first bytes; observers see what it really is.

        The caller gets the worker's own content type.
        """
        self._events = events
        self._exchange.cancel_scope.has_all = self._has_all if events else None
        if events == is_event_stream(self._headers):
            return self._chosen(self._headers)
        lines = [line for line in self._headers if line[0] != b"content-type"]
        return self._chosen([*lines, EVENT_STREAM if events else JSON])

    def _decodes(self, coding: bytes) -> bool:
        """Prepare to decode a compressed response if it has to be read.

        Returns False if that is impossible, and injected fields would reach the caller: then the
        call is sent once more without them.
        """
        exchange = self._exchange
        bodiless = self._status in BODILESS or exchange.call.method == "HEAD"
        if bodiless or not wants_plain(exchange):
            return True
        self._decoder = decoder_of(coding, self._settings.server_limits.max_event_bytes)
        if self._decoder is not None or is_identity(coding):
            self._headers = [line for line in self._headers if line[0] != b"content-encoding"]
        elif exchange.stripper is not None and self._status == 200:
            self._fail(InjectionRefused(exchange.stripper.injected))
            return False
        return True

    @property
    def _rewrites(self) -> bool:
        """Whether the length of the body may change."""
        reader = self._reader
        return self._decoder is not None or (reader is not None and reader.rewrites)

    def _fail(self, error: GatewayError) -> None:
        """End with `error`; the rest of the response is of no use."""
        self._reader, self._decoder = Discarding(), None
        self.on_error(error)

    def _held(self, status: int, headers: Headers, reader: Reader | None) -> Reader | None:
        return hold(self._exchange, self._attempt, status, headers, reader, self._settings.failover)

    def _references(self) -> list[tuple[bytes, bytes]]:
        """Return the lines that name another URL, as the caller may use them."""
        if self._attempt is None:  # a plugin's own
            return [line for line in self._headers if line[0] in REFERENCES]
        worker, path = self._attempt.worker, self._exchange.call.path
        return references(self._headers, path, worker.url, worker.api_path)

    def _start(self, length: int | None) -> None:
        """Send the head; `length` is that of the whole body if it is known and may have changed."""
        status, call = self._status, self._exchange.call
        lines, added = without(self._headers, self._dropped), gateway_headers(call)
        if status != 200:
            lines += self._references()
        if added[1:]:
            lines, added = one_set_of_limits(lines, added, status)
        lines += added
        if self._attempt is not None:
            lines += (self._attempt.worker.header,)
        if ((self._reader or self._decoder) and self._rewrites) or status in BODILESS:
            lines = with_length(lines, None if status in BODILESS else length)
        self._exchange.reply.start(status, lines, events=self._events)

    def _pause(self) -> None:
        self._source.pause_reading()
        self.enter(self._settings.timeouts.idle, CallerStalled)

    def _resume(self) -> None:
        if not self.done.done():
            self.enter(self._settings.timeouts.idle, IdleTimeout)
            self._source.resume_reading()


def _nothing() -> None:
    pass
