"""The Caller of a call that came as an RPC: it takes the response apart as it arrives."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from gateway import (
    Attempt,
    Call,
    CallerGone,
    CallError,
    Event,
    GatewayError,
    Headers,
    Splitter,
    UpstreamError,
    is_event_stream,
)
from gateway_plugins.grpc.edge.answers import (
    Answer,
    BadAnswer,
    Begun,
    Bug,
    Unsupported,
    WorkerError,
)

log = logging.getLogger("gateway")

MAX_ERROR = 64 * 1024
"""Maximum bytes of an error response that are read."""

FULL = 256 * 1024
"""Bytes that may wait for the caller; beyond, nothing more is read from the worker."""

DONE = b"[DONE]"


class Receiver:
    """A gateway Caller. `limit`: maximum bytes of one event, and of a plain response.

    `failure` is what was wrong with the response. `ended`: the response is whole and recorded.
    `streams`: the response is an event stream.
    """

    def __init__(self, answer: Answer, limit: int) -> None:
        self.drained: Callable[[], None] = _nothing
        self.status = 0
        self.headers: Headers = ()
        self.body = b""
        self.failure: Exception | None = None
        self.ended = False
        self._answer = answer
        self._call: Call | None = None
        self._limit = limit
        self._splitter = Splitter(limit)
        self.streams = self._begun = False
        self._chunks: list[bytes] = []
        self._size = self._waiting = self._taken = 0
        self._loop = asyncio.get_running_loop()
        self._change = self._loop.create_future()

    def watch(self, call: Call) -> None:
        """Receive the response of `call`, which is ended if its response cannot be read."""
        self._call = call

    def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self.streams = status < 400 and is_event_stream(headers)

    def write(self, data: bytes) -> bool:
        self._feed(data)
        self.wake()
        return self._waiting <= FULL

    def cut(self) -> None:
        self.wake()

    async def end(self, data: bytes) -> None:
        self._feed(data)
        if self.failure is None:
            self._close()
        self.ended = True
        self.wake()

    def take(self) -> list[bytes]:
        """Return the messages that wait for the caller; none of a response that is of no use."""
        self._taken = self._waiting
        return [] if isinstance(self.failure, Unsupported) else self._answer.take()

    def note_sent(self) -> None:
        """The caller has taken in what was taken."""
        was_full = self._waiting > FULL
        self._waiting -= self._taken
        if was_full and self._waiting <= FULL:
            self.drained()

    def wake(self, _: object = None) -> None:
        """End the wait in `changed`, or the next one."""
        if not self._change.done():
            self._change.set_result(None)

    async def changed(self) -> None:
        """Wait until something has come since the last time, or the call is over."""
        await self._change
        self._change = self._loop.create_future()

    def _feed(self, data: bytes) -> None:
        if self.failure is not None:
            return
        try:
            if self.streams:
                self._waiting += len(data)
                self._read(self._splitter.feed(data))
            else:
                self._keep(data)
        except GatewayError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  it would be taken for a failure of the worker
            self._break(error)

    def _break(self, error: Exception) -> None:
        log.error("the gateway failed on a response", exc_info=error)
        self.failure = Bug("the gateway failed on this call")
        if self._call is not None:
            self._call.cancel(CallError(str(self.failure)))

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self.status >= 400 and self._size > MAX_ERROR:
            return
        if self._size > self._limit:
            raise BadAnswer(f"the worker's response is larger than {self._limit} bytes")
        self._chunks.append(data)

    def _read(self, events: list[Event]) -> None:
        for event in events:
            if event.data is None:
                self._answer.comment()
            elif event.data != DONE:
                self._begin()
                self._answer.event(event.data)

    def _begin(self) -> None:
        """Say once where the response comes from: comments may have come before any worker."""
        if not self._begun:
            self._begun = True
            attempts = () if self._call is None else self._call.attempts
            self._answer.begin(_begun(attempts))

    def _fail(self, error: GatewayError) -> None:
        self.failure = error
        if self._call is None or isinstance(error, WorkerError):
            return
        if isinstance(error, Unsupported):  # the worker has done no wrong
            self._call.cancel(CallerGone(str(error)))
        else:
            self._call.cancel(UpstreamError(str(error), code="upstream_protocol_error"))

    def _close(self) -> None:
        try:
            if self.streams:
                self._read(self._splitter.close())
                return
            self.body = b"".join(self._chunks)
            if self.status < 400:
                self._begin()
                self._answer.plain(self.body)
        except GatewayError as error:
            self.failure = error


def _begun(attempts: Sequence[Attempt]) -> Begun:
    if not attempts:
        return Begun()
    last = attempts[-1]
    version = "" if last.weight_version is None else str(last.weight_version)
    return Begun(last.worker.id, version, len(attempts))


def _nothing() -> None: ...
