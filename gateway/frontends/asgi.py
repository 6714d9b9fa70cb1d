"""The caller behind any ASGI server: accepts a response without blocking, reports a disconnect.

The response is written from the worker's read callback, which cannot await anything, so a Task
sends the queued messages. Under the gateway's own server `gateway.frontends.uvicorn` needs no such
Task.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic

from starlette.types import Message, Receive, Scope, Send

from gateway.calls.body import receive_chunk
from gateway.calls.call import Call
from gateway.calls.cancel import LEFT
from gateway.errors import CallerGone
from gateway.headers import Headers


class ASGICaller:
    """A gateway.calls.reply.Caller that may be idle for at most `idle_timeout` seconds."""

    idle_timeout: float | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.query: bytes = scope.get("query_string", b"")
        self.headers: Headers = scope["headers"]
        client = scope.get("client")
        self.client: str | None = client[0] if client else None
        self.began = monotonic()
        self._call: Call | None = None
        self.drained: Callable[[], None] = _nothing
        self._receive = receive
        self._send = send
        self._unsent: deque[Message] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    def watch(self, call: Call) -> None:
        """Cancel `call` if the caller disconnects after its request has been received."""
        self._call = call

    def _left(self) -> None:
        if self._call is not None:
            self._call.cancel(CallerGone(LEFT))

    def whole_body(self) -> None:
        """Return None: ASGI gives no body without a `receive`."""

    async def next_chunk(self) -> tuple[bytes, bool]:
        """Return the next chunk of the request body, and whether more follows.

        Raises CallerGone, or BodyTimeout if nothing arrives for `idle_timeout` seconds.
        """
        chunk, more = await receive_chunk(self._receive, self.idle_timeout)
        if not more:
            self._watching = asyncio.create_task(self._watch())
        return chunk, more

    async def _watch(self) -> None:
        """Wait for the disconnect, the only message left after the whole request."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()

    def start(self, status: int, headers: Headers) -> None:
        self._push({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, data: bytes) -> bool:
        self._push({"type": "http.response.body", "body": data, "more_body": True})
        return False

    async def end(self, data: bytes) -> None:
        self._push({"type": "http.response.body", "body": data, "more_body": False})

    def cut(self) -> None:
        """Do nothing: returning from the application without an end closes the connection."""

    def _push(self, message: Message) -> None:
        self._unsent.append(message)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._unsent:
                await self._send(self._unsent.popleft())
        except OSError:  # the ASGI specification's error for a caller that has gone
            self._unsent.clear()
            self._left()
        self._sending = None
        self.drained()

    async def settle(self) -> None:
        """Wait until the server has taken everything; give up after `idle_timeout` seconds."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=self.idle_timeout)

    def release(self) -> None:
        """Drop the callbacks and cancel the tasks at the end of the call."""
        self.drained, self._call = _nothing, None
        for task in (self._sending, self._watching):
            if task is not None:
                task.cancel()


def _nothing() -> None:
    pass
