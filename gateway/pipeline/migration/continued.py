"""The relay of a stream that another worker may carry on, if the one that sends it breaks off."""

from time import monotonic
from types import TracebackType
from typing import Self

from gateway.calls.records import Attempt, Continuation
from gateway.config import Config
from gateway.errors import GatewayError, IdleTimeout
from gateway.fleet.worker import Worker
from gateway.headers import Headers, is_event_stream, is_plain
from gateway.pipeline.exchange import Exchange, Part
from gateway.pipeline.readers import Reader
from gateway.pipeline.refused import WorkerRefused
from gateway.pipeline.relay import Relay, Source
from gateway.wire.injection import Stripper
from gateway.wire.sse import Event, EventTooLarge, Splitter

HOOK = "continuation"
"""The name under which a failure of a call's continuation is counted."""

TOO_LARGE = "an event is larger than server_limits.max_event_bytes"


class Isolated:
    """A block that asks the call's continuation for `name`: a plugin's mistake only ends the block.

    The mistake is counted, and `failed` is set. Errors of the kinds `raised` leave the block.
    """

    __slots__ = ("_exchange", "_name", "_raised", "failed")

    def __init__(self, exchange: Exchange, name: str, *raised: type[Exception]) -> None:
        self._exchange = exchange
        self._name = name
        self._raised = raised
        self.failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, self._raised):
            return False
        call, self.failed = self._exchange.call, True
        failures = self._exchange.chains.failures
        failures.note(HOOK, self._name, call.outcome, error, call.log_extra)
        return True


class ContinuedRelay(Relay):
    """A relay whose events pass the call's continuation, in whole events, before all readers.

    So nobody sees a part of an event that a broken worker has sent. The relay of a further attempt
    goes on with the reader of the first one, and sends no head.
    """

    __slots__ = ("_continuation", "_splitter")

    def __init__(
        self,
        exchange: Exchange,
        attempt: Attempt,
        source: Source,
        settings: Config,
    ) -> None:
        super().__init__(exchange, attempt, source, settings)
        self._continuation: Continuation = exchange.call.continuation or Passing()
        self._splitter: Splitter | None = None
        self._events = False

    def on_headers(
        self, status: int, headers: Headers, *, alone: bool = False, whole: bool = False
    ) -> None:
        part = self._exchange.part
        if part is None:
            super().on_headers(status, headers, alone=alone, whole=whole)
        else:
            self._take_over(part, status, headers)

    def _take_over(self, part: Part, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers
        if (attempt := self._attempt) is not None:
            attempt.status, attempt.first_byte = status, monotonic()
            attempt.heard = attempt.first_byte
        if status != 200 or not (is_event_stream(headers) and is_plain(headers)):
            self._fail(WorkerRefused(status, headers, b"", "status"))
            return
        self._events, self._headers = True, part.headers
        self._reader, self._recent = part.reader, part.recent
        self._splitter = Splitter(self._settings.server_limits.max_event_bytes)
        self._exchange.reply.caller.drained = self._resume
        self._exchange.cancel_scope.has_all = self._has_all
        self.enter(self._settings.timeouts.idle, IdleTimeout)

    def _chosen(self, headers: Headers) -> Reader | None:
        at_once = self._reader is None and self._decoder is None
        reader = super()._chosen(headers)
        if at_once and reader is not None and self._events and self._status == 200:
            self._tapping = None
            if is_plain(headers):
                self._splitter = Splitter(self._settings.server_limits.max_event_bytes)
                self._exchange.part = Part(reader, headers)
        return reader

    def on_body(self, data: bytes) -> None:
        if self.done.done():
            return
        if self._splitter is None:
            super().on_body(data)
        else:
            self._last = self._loop.time()
            self._pass(self._splitter, data)

    def _pass(self, splitter: Splitter, data: bytes) -> None:
        """Send what the continuation makes of the events that end in `data`."""
        made = b""
        failure: GatewayError | None = None
        try:
            for event in splitter.feed(data):
                made += self._made(event)
        except EventTooLarge:
            made += self._given_up(TOO_LARGE)
        except GatewayError as error:
            failure = error
        if self._splitter is None:
            made += splitter.take_rest()
        if made:
            super().on_body(made)
        if failure is not None:
            self.on_error(failure)

    def _made(self, event: Event) -> bytes:
        with Isolated(self._exchange, "event", GatewayError):
            return self._continuation.event(event)
        return self._left() + event.raw

    def _ended(self) -> bytes:
        with Isolated(self._exchange, "end", GatewayError):
            return self._continuation.end()
        return self._left()

    def _left(self) -> bytes:
        """Return what the continuation has held back: it has failed, and is asked no more."""
        held = self._given_up("the plugin that carries streams on has failed")
        self._continuation = self._exchange.call.continuation = Passing()
        return held

    def _given_up(self, words: str) -> bytes:
        """Return what was held back; what follows is forwarded as it comes, and not carried on."""
        self._splitter = self._exchange.part = None
        with Isolated(self._exchange, "give_up"):
            return self._continuation.give_up(words)
        return b""

    def on_end(self, data: bytes) -> None:
        if (splitter := self._splitter) is None:
            super().on_end(data)
            return
        if data:
            self.on_body(data)
        self.complete = True
        if self.done.done():
            return
        if self._splitter is None:
            super().on_end(b"")
            return
        try:
            last = b"".join(map(self._made, splitter.close()))
            super().on_end(last + self._ended())
        except GatewayError as error:
            self.on_error(error)

    def close(self) -> None:
        if (part := self._exchange.part) is not None and self._splitter is not None:
            part.recent, part.release = self._recent, self._let_go
        if self._attempt is not None and self._events:
            with Isolated(self._exchange, "tokens"):
                self._attempt.tokens = self._continuation.tokens
        super().close()

    def _release(self, stripper: Stripper) -> None:
        if self._splitter is None:
            super()._release(stripper)

    def _let_go(self) -> None:
        """Send what waits for an end of the stream that will not come."""
        if (stripper := self._exchange.stripper) is not None:
            super()._release(stripper)


class Passing:
    """The continuation of a stream that nobody can carry on: its events pass as they are."""

    tokens = None

    def event(self, event: Event) -> bytes:
        return event.raw

    def end(self) -> bytes:
        return b""

    def give_up(self, words: str) -> bytes:
        return b""

    def rest(self) -> bytes | None:
        return None

    async def resume(self, worker: Worker) -> None:
        return None
