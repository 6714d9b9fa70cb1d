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

UNMEASURED = 8
"""Pieces that may come before their size is looked at: a stream has many, and each is small."""

LEFT = "the caller left, and no retry came"
NO_ROOM = "no room to keep the response"


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
    before that. `delivered`: a retry has got all of it. `size` and `room` are bytes of memory: of
    the pieces that were measured, and what the shelf has granted.
    """

    left_at: float | None = None
    headers: Headers | None = None
    delivered = False
    state: State = "running"
    status = size = room = followers = 0
    _timer: asyncio.TimerHandle | None = None
    _unmeasured = UNMEASURED
    _measured = 0

    def __init__(self, call: Call, request: Request, shelf: Shelf) -> None:
        self.call_id = call.id
        self.request = request
        self.pieces: list[bytes] = []
        self.drained: Callable[[], None] = _nothing
        self._shelf = shelf
        self._call: Call | None = call
        self._caller: Caller = NOBODY
        self._changed: asyncio.Event | None = None

    def stand_before(self, caller: Caller) -> None:
        self._caller = caller
        caller.drained = self._on_drained

    # The core calls these

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
        if self._changed is not None:
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
        if self.left_at is not None and not self.followers and self._call is not None:
            self._call.outcome.caller_gone = True

    async def end(self, data: bytes) -> None:
        self.pieces.append(data)
        caller = self._caller
        self._measure()
        if self.state == "running":
            self.state = "whole"
            if self.left_at is None and getattr(caller, "disconnected", False):
                self.left_at = monotonic()  # it left after the call was over
            self.delivered = self.left_at is None
        self._close()
        await caller.end(data)

    def left(self) -> bool:
        """See gateway.Outlasting: go on for retries, unless nobody can join any more."""
        if self.state != "running":
            return False
        if self.left_at is None:
            self.left_at = monotonic()
            self._caller.drained = _nothing
            self._caller = NOBODY
            self._wait_for_retry()
            self.drained()  # nobody is full any more
        return True

    # Retries call these

    @property
    def is_alone(self) -> bool:
        return self.left_at is not None and not self.followers

    def follow(self) -> None:
        """Count a retry that reads from now on, until it calls `unfollow`."""
        self.followers += 1
        self._changed = self._changed or asyncio.Event()
        self._stop_timer()

    def unfollow(self, *, got_all: bool) -> None:
        self.followers -= 1
        if got_all and self.state == "whole":
            self.delivered = True
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

    def give_up(self) -> None:
        """End the call, unless somebody gets its response."""
        if self.is_alone:
            self._break_off(LEFT)

    def compact(self) -> None:
        """Keep the pieces as one, which takes less memory."""
        self.size -= PIECE * (len(self.pieces) - 1)
        self.pieces = [b"".join(self.pieces)]

    async def _change(self) -> None:
        if self._changed is not None:
            self._changed.clear()
            await self._changed.wait()

    def _wait_for_retry(self) -> None:
        """Give the call the time of grace, if it runs and nobody gets its response."""
        if self.is_alone and self.state == "running":
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._shelf.grace, self.give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_drained(self) -> None:
        self.drained()

    def _keep(self, data: bytes) -> None:
        self.pieces.append(data)
        self._unmeasured -= 1
        if self._unmeasured < 0 or self._changed is not None or self.state != "running":
            self._look()

    def _look(self) -> None:
        """Bound what is kept, and wake the retries that wait for more."""
        self._measure()
        if self._changed is not None:
            self._changed.set()

    def _measure(self) -> None:
        """Take account of pieces that came; if there is no room for them, keep none."""
        self._unmeasured = UNMEASURED
        if self.state != "running":
            self.pieces.clear()
            return
        come = self.pieces[self._measured :]
        self._measured += len(come)
        self.size += sum(map(len, come)) + PIECE * len(come)
        if self.size > self.room and not self._shelf.grow(self, self.size - self.room):
            self.pieces = []
            self._break_off(NO_ROOM)

    def _break_off(self, why: str) -> None:
        """Keep nothing any more, which ends the call if its own caller has left."""
        self.state = "over"
        self._stop_timer()
        if self._changed is not None:
            self._changed.set()
        self._shelf.drop(self)
        if self._call is not None and self.left_at is not None:
            self._call.cancel(CallerGone(why))

    def _close(self) -> None:
        """Detach from the call and its caller: nothing more passes."""
        self._stop_timer()
        self._call, self._caller, self.drained = None, NOBODY, _nothing
        if self.state == "running":
            self._break_off(LEFT)
        elif self.state == "whole":
            self._shelf.ended(self)
        if self._changed is not None:
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
