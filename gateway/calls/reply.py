"""The response on its way out: the connection to the caller, and a record of what has been sent."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gateway.calls.keepalive import COMMENT, EVENT_STREAM, LateResponse, ends_in_error
from gateway.errors import CallError
from gateway.headers import HeaderLine, Headers, get_header, is_plain
from gateway.kernel.interface import Line

if TYPE_CHECKING:
    from gateway.calls.records import Outcome

BLANK_LINES = (b"\n\n", b"\r\r", b"\r\n\r\n")


class Caller(Protocol):
    """Destination of a response: the connection of an ASGI server, or the list of a test.

    `start`, `write` and `cut` never wait. The head given to `start` is sent with the next `write`,
    even an empty one. After `write` has returned False the caller is full: nothing may be read from
    the worker until `drained` is called. A caller may have a `line`, see `Reply.line`. The caller
    of an internal call may have `receive_last(data)`: it gets the last bytes before the call is
    recorded, so that a plugin can store the whole response in `call_finished`.
    """

    drained: Callable[[], None]

    def start(self, status: int, headers: Headers) -> None: ...
    def write(self, data: bytes) -> bool: ...
    def cut(self) -> None:
        """Break off, so that the bytes sent so far cannot be taken for a whole response."""

    async def end(self, data: bytes) -> None:
        """Send the last bytes; return when the server has taken them."""


class Reply:
    """The bytes sent to the caller so far; every byte of the response passes through here.

    `begun`: the head is decided, so no other response is possible. `waiting`: comments were sent
    before the response, so it can only be an event stream, see gateway.calls.keepalive. `caller`
    gets what is sent. `timed` is called when the head goes to the caller, and returns a line to
    add; `closing` returns a comment for the end of an event stream. None: there is nothing to add.
    """

    __slots__ = (
        "_end",
        "_events",
        "_head",
        "_late",
        "_outcome",
        "_started",
        "begun",
        "caller",
        "closing",
        "timed",
        "waiting",
    )

    def __init__(self, caller: Caller, outcome: "Outcome", started: float) -> None:
        self.begun = self.waiting = False
        self.caller = caller
        self._outcome = outcome
        self._started = started
        self._events = False
        self._head: tuple[int, Headers] | None = None
        self._end = b""
        self._late: LateResponse | None = None
        self.timed: Callable[[], HeaderLine | None] | None = None
        self.closing: Callable[[], bytes] | None = None

    def translate(self, translating: Callable[[Caller, bool], Caller]) -> Caller:
        """Send what follows through another Caller; it is given the present one, and `waiting`."""
        self.closing = None  # the translator knows the events of its own API alone
        self.caller = translating(self.caller, self.waiting)
        return self.caller

    def comment(self, headers: Headers) -> None:
        """Send a comment; the first one follows the head of an event stream with `headers`.

        Nothing is sent once the response has begun.
        """
        if self.begun:
            return
        if not self.waiting:
            self.waiting = True
            self._outcome.status = 200
            self.caller.start(200, [EVENT_STREAM, *headers])
        self.caller.write(COMMENT)

    def start(self, status: int, headers: Headers, *, events: bool = False) -> None:
        """Decide on the head; `events`: the response is an event stream.

        The head is sent with the first bytes of the body, or by `send_head`.
        """
        self.begun = True
        self._events = events
        if events and self.closing is not None:
            headers = self._longer(headers)
        if not self.waiting:
            self._outcome.status = status
            self._head = (status, headers)
            return
        if self.timed is not None:
            self.timed()  # nobody can be told in a header any more
        if status != 200 or not events or get_header(headers, b"content-encoding"):
            self._late = LateResponse(status)

    def send_head(self) -> None:
        """Send the head now, because no bytes of the body are there to go with it."""
        self._pass_head()
        self.caller.write(b"")

    def tell_head(self) -> bool:
        """Give the caller the head before bytes go with it; False if the response is an error."""
        if self._late is None:
            self._pass_head()
        return self._late is None

    def _pass_head(self) -> None:
        if self._head is not None:
            (status, headers), self._head = self._head, None
            if self.timed is not None and (line := self.timed()) is not None:
                headers = [*headers, line]
            self.caller.start(status, headers)

    def write(self, data: bytes) -> bool:
        """Send bytes; return False if the caller is full: stop until its `drained` is called."""
        if self._late is not None:
            self._late.add(data)
            return True
        outcome = self._outcome
        if outcome.ttft is None and data:
            outcome.ttft = time.monotonic() - self._started
        outcome.bytes_sent += len(data)
        self._end = data if len(data) > 3 else self._end[-3:] + data
        if self._head is not None:
            self._pass_head()
        return self.caller.write(data)

    @property
    def way(self) -> Callable[[bytes], bool] | None:
        """What bytes may be sent with directly, if `passed` is told of them later; None: not now.

        Only when bytes were sent before: the first ones take the head along.
        """
        direct = self._head is None and self._late is None and self._outcome.ttft is not None
        return self.caller.write if direct else None

    @property
    def line(self) -> Line | None:
        """The transport that the `way` writes to, None if that does more or is not known."""
        line: Line | None = getattr(self.caller, "line", None)
        return line

    def passed(self, size: int, last: bytes) -> None:
        """Take note of bytes that were sent by the `way`; `last` are the last four or more."""
        self._outcome.bytes_sent += size
        self._end = last or self._end

    async def end(self, data: bytes) -> None:
        """Send the last bytes, which `count_last` has counted before."""
        if self._late is not None:
            self._late.add(data)
            self.caller.write(self._late.event())
            self.caller.cut()
            return
        self._pass_head()
        if self.closing is not None and self._events:
            between = (self._end[-3:] + data[-4:]).endswith(BLANK_LINES)
            data += self.closing() if between else b""
        await self.caller.end(data)

    def _longer(self, headers: Headers) -> Headers:
        """Return the head of a stream that gets a comment at its end, or give the comment up."""
        if not is_plain(headers):
            self.closing = None
        return [line for line in headers if line[0] != b"content-length"]

    def break_off(self, error: CallError, *, tell: bool) -> None:
        """End a response early because of `error`: it must not look whole.

        The connection is broken. `tell`: an `error` event goes before, if the response is a stream
        that does not end in one yet. If comments alone have been sent, the event is sent anyway.
        """
        self._pass_head()
        only_comments = self.waiting and (self._late is not None or not self.begun)
        self.begun, self._late = True, None
        if only_comments or (tell and self._events and not ends_in_error(self._end)):
            gap = b"" if not self._end or self._end.endswith(BLANK_LINES) else b"\n\n"
            self.write(gap + error.event())
        self.caller.cut()

    def count_last(self, data: bytes, after: float) -> None:
        """Count the last bytes, `after` so many seconds of the call.

        The caller gets them already now if it has `receive_last`.
        """
        if (receive := getattr(self.caller, "receive_last", None)) is not None:
            self._pass_head()
            receive(data)
        if data and self._outcome.ttft is None:
            self._outcome.ttft = after
        self._outcome.bytes_sent += len(data)
