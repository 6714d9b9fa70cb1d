"""The caller behind an ASGI server: takes an answer without waiting, and is noticed when it leaves.

An answer is written from the worker's read callback, where nothing can be awaited. Under the
gateway's own server (uvicorn's `send` over a CallerTransport) `send` and `receive` are stepped by
hand: they nearly always run to their end at once, and what does suspend is carried on by a Task.
Any other server or middleware may need a Task from the start, so there each message has one.
"""

import asyncio
import types
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from starlette.types import Message, Receive, Send

from gateway.call import Headers
from gateway.errors import BodyTimeout, CallerGone

FINISHED = object()


class CallerTransport:
    """The transport to a caller under the gateway's own server (see server.py).

    uvicorn writes an answer's head and body apart, and each write is a system call, the dearest
    part of a short answer: here the head goes with the first of the body, or at the end of the
    loop's turn. `lost` is called when the connection is gone.
    """

    __slots__ = (
        "_head",
        "_loop",
        "_transport",
        "abort",
        "get_extra_info",
        "is_closing",
        "lost",
        "pause_reading",
        "resume_reading",
    )

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: Callable[[], None] = _nothing
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/"):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self._flush()
        self._transport.close()


class ASGICaller:
    """A gateway.call.Caller. `patience` bounds the seconds in which it sends or takes in nothing.

    `left` is called when the caller closes its connection after its request was received.
    """

    def __init__(self, receive: Receive, send: Send, patience: float | None) -> None:
        self.drained: Callable[[], None] = _nothing
        self.left: Callable[[], None] = _nothing
        self._receive = receive
        self._send = send
        self._patience = patience
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        self._transport = transport if isinstance(transport, CallerTransport) else None
        self._unsent: deque[Message] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    # the request

    async def next_chunk(self) -> tuple[bytes, bool]:
        """The next piece of the request's body, and whether more follows.

        Raises CallerGone, or BodyTimeout when nothing comes for `patience` seconds.
        """
        message = await self._within_patience(self._receive())
        if message["type"] == "http.disconnect":
            raise CallerGone("the caller left while it sent its request")
        more = message.get("more_body", False)
        if not more:
            self._watch()
        return message.get("body", b""), more

    async def _within_patience(self, receiving: Any) -> Message:
        if self._transport is not None:
            try:
                waits_for = receiving.send(None)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            receiving = _go_on(receiving, waits_for)
        try:
            async with asyncio.timeout(self._patience):
                return await receiving  # type: ignore[no-any-return]
        except TimeoutError:
            raise BodyTimeout(f"nothing more of the body came for {self._patience} s") from None

    def _watch(self) -> None:
        """The request is in: the server has only to say when the caller leaves."""
        if self._transport is None:
            self._watcher = asyncio.create_task(self._wait_until_left())
        elif self._transport.is_closing():
            self.left()
        else:
            self._transport.lost = self.left

    async def _wait_until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left()

    def unwatch(self) -> None:
        if self._transport is not None:
            self._transport.lost = _nothing
        elif self._watcher is not None:
            self._watcher.cancel()

    # the answer

    def start(self, status: int, headers: Headers) -> None:
        self._push({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, data: bytes) -> bool:
        return self._push({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        self.unwatch()
        if not self._push({"type": "http.response.body", "body": data, "more_body": False}):
            await self.settle()

    def cut(self) -> None:
        self.unwatch()  # returning from the application without an end closes the connection

    def _push(self, message: Message) -> bool:
        if self._sending is not None:
            self._unsent.append(message)
            return False
        sending = self._send(message)
        if self._transport is not None:
            waits_for = self._step(sending)
            if waits_for is FINISHED:
                return True
            sending = _go_on(sending, waits_for)
        self._sending = asyncio.create_task(self._catch_up(sending))
        return False

    def _step(self, sending: Any) -> object:
        try:
            return sending.send(None)
        except StopIteration:
            return FINISHED
        except OSError:
            self.left()
            return FINISHED

    async def _catch_up(self, sending: Any) -> None:
        try:
            await sending
            while self._unsent:
                await self._send(self._unsent.popleft())
        except OSError:
            self._unsent.clear()
            self.left()
        self._sending = None
        self.drained()

    async def settle(self) -> None:
        """Wait until the server has taken everything, or give the caller up."""
        if self._sending is None:
            return
        await asyncio.wait([self._sending], timeout=self._patience)
        if self._sending is not None:
            self.abort()

    def abort(self) -> None:
        """Give the caller up, dropping what it has not taken in."""
        self.unwatch()
        self._unsent.clear()
        if self._sending is not None:
            self._sending.cancel()
        if self._transport is not None:
            self._transport.abort()


@types.coroutine
def _go_on(coroutine: Any, waits_for: object) -> Generator[object, Any, Any]:
    """An awaitable that continues a coroutine which was stepped once and waits for `waits_for`."""
    try:
        yield waits_for
    except BaseException:
        coroutine.close()
        raise
    return (yield from coroutine)


def _nothing() -> None:
    pass
