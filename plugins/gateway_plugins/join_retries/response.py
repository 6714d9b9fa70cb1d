"""The response of one call: it passes to the caller, and is kept for a retry of the call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Literal, Protocol

from gateway import Call, Caller, CallerGone, Headers, UpstreamError
from gateway_plugins.join_retries.asked import Request

State = Literal["running", "whole", "over"]

PIECE = 48
"""Bytes of memory that a piece takes beside its content."""

LEFT = "the caller left, and no retry came"


class Shelf(Protocol):
    """Where responses are kept, as a response sees it."""

    @property
    def grace(self) -> float:
        """Seconds that a call goes on without a caller."""

    def grow(self, kept: "KeptResponse", size: int) -> bool:
        """Whether the response may take `size` more bytes of memory."""

    def ended(self, kept: "KeptResponse") -> None: ...
    def drop(self, kept: "KeptResponse") -> None: ...


class KeptResponse:
    """A gateway.Outlasting before the caller of `call`: keeps what passes, as the caller gets it.

    `state`: running; whole; or over, which means that nobody can join any more: it broke off, was
    given up, or there was no room. `headers` are None before the head. `followers` are the retries
    that read it now, `left_at` is the time at which its own caller left (`time.monotonic`), None
    before that. `delivered`: a retry has got all of it.
    """

    def __init__(self, call: Call, caller: Caller, request: Request, shelf: Shelf) -> None:
        self.call_id = call.id
        self.request = request
        self.state: State = "running"
        self.status = 0
        self.headers: Headers | None = None
        self.pieces: list[bytes] = []
        self.size = 0
        self.room = 0
        self.followers = 0
        self.left_at: float | None = None
        self.delivered = False
        self._shelf = shelf
        self._call: Call | None = call
        self._caller: Caller = caller
        self._drained: Callable[[], None] = _nothing
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    # The core calls these

    @property
    def drained(self) -> Callable[[], None]:
        return self._drained

    @drained.setter
    def drained(self, callback: Callable[[], None]) -> None:
        self._drained = self._caller.drained = callback

    @property
    def line(self) -> tuple[Callable[[bytes], object], bool, object, object] | None:
        """The line of the caller behind (see gateway.kernel), whose bytes are kept as they pass."""
        line = getattr(self._caller, "line", None)
        if line is None:
            return None
        write, chunked, flow, caller = line

        def passed(data: bytes) -> None:
            self._keep(data[data.index(b"\r\n") + 2 : -2] if chunked else data)
            write(data)

        return passed, chunked, flow, caller

    def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers
        self._changed.set()
        self._caller.start(status, headers)

    def write(self, data: bytes) -> bool:
        self._keep(data)
        return self._caller.write(data)

    def cut(self) -> None:
        caller = self._caller
        self._close()
        caller.cut()

    def receive_last(self, data: bytes) -> None:
        """Note, before the call is recorded, whether anybody gets the response."""
        if self._call is not None and self.is_alone:
            self._call.outcome.caller_gone = True

    async def end(self, data: bytes) -> None:
        self._keep(data)
        caller = self._caller
        if self.state == "running":
            self.state = "whole"
            if getattr(caller, "disconnected", False):  # it left after the call was over
                self.left_at = monotonic()
            self.delivered = self.left_at is None
        self._close()
        await caller.end(data)

    def left(self) -> bool:
        """See gateway.Outlasting: go on for the time of grace, unless that has ended."""
        if self.state != "running":
            return False
        if self.left_at is None:
            self.left_at = monotonic()
            self._caller.drained = _nothing
            self._caller = NOBODY
            self._wait_for_retry()
            self._drained()  # nobody is full any more
        return True

    # Retries call these

    @property
    def is_alone(self) -> bool:
        return self.left_at is not None and not self.followers

    def follow(self) -> None:
        """Count a retry that reads from now on, until it calls `unfollow`."""
        self.followers += 1
        self._stop_timer()

    def unfollow(self, *, got_all: bool) -> None:
        self.followers -= 1
        if got_all and self.state == "whole":
            self.delivered = True
        if self.is_alone and self.state == "running":
            self._wait_for_retry()

    async def head(self) -> bool:
        """Wait for the head; False if there will be none."""
        while self.headers is None and self.state == "running":
            await self._change()
        return self.headers is not None

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the body from its beginning, what has come so far as one piece.

        Raises UpstreamError if the response breaks off.
        """
        at, pieces = 0, self.pieces  # once it is over, others are in place of these
        while True:
            come, whole = pieces[at:], self.state == "whole"
            if come:
                at += len(come)
                yield b"".join(come)
            elif whole:
                return
            elif self.state == "over":
                raise UpstreamError("the response that this retry had joined was broken off")
            else:
                await self._change()

    def give_up(self, *, no_room: bool = False) -> None:
        """Keep nothing any more; end the call if nobody is left who gets its response."""
        self.state = "over"
        if no_room:
            self.pieces, self.size = [], 0
        self._stop_timer()
        self._changed.set()
        self._shelf.drop(self)
        if self._call is not None and self.left_at is not None:
            self._call.cancel(CallerGone("no room to keep the response" if no_room else LEFT))

    def compact(self) -> int:
        """Keep the pieces as one; return the bytes of memory that this saves."""
        if len(self.pieces) < 2:
            return 0
        saved = PIECE * (len(self.pieces) - 1)
        self.pieces = [b"".join(self.pieces)]
        self.size -= saved
        return saved

    def _change(self) -> "asyncio.Future[bool] | asyncio.Task[bool]":
        self._changed.clear()
        return asyncio.ensure_future(self._changed.wait())

    def _wait_for_retry(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._shelf.grace, self.give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _keep(self, data: bytes) -> None:
        if self.state != "running" or not data:
            return
        self.pieces.append(data)
        self.size += len(data) + PIECE
        if self.size > self.room and not self._shelf.grow(self, self.size - self.room):
            self.give_up(no_room=True)
        if self.followers:
            self._changed.set()

    def _close(self) -> None:
        """Detach from the call and its caller: nothing more passes."""
        self._stop_timer()
        self._call, self._caller, self._drained = None, NOBODY, _nothing
        if self.state == "running":
            self.give_up()
        elif self.state == "whole":
            self._shelf.ended(self)
        self._changed.set()


class Nobody:
    """A Caller that has left."""

    @property
    def drained(self) -> Callable[[], None]:
        return _nothing

    @drained.setter
    def drained(self, callback: Callable[[], None]) -> None: ...

    def start(self, status: int, headers: Headers) -> None: ...

    def write(self, data: bytes) -> bool:
        return True

    def cut(self) -> None: ...

    async def end(self, data: bytes) -> None: ...


def _nothing() -> None: ...


NOBODY = Nobody()
