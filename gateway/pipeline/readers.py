"""Readers parse a response on its way to the caller, and remove injected fields from it.

A Reader stands between the worker's bytes and the caller. Without observers and injections most
responses have no Reader, and their bytes pass through untouched.
"""

from collections.abc import Callable
from typing import Protocol

from gateway.calls.call import Call
from gateway.calls.observers import Observers
from gateway.calls.reply import BLANK_LINES
from gateway.config import ServerLimits
from gateway.headers import Headers, is_plain
from gateway.kernel.interface import Cut
from gateway.pipeline.exchange import Exchange
from gateway.wire.dialect import Delta, Unreadable
from gateway.wire.injection import Stripper
from gateway.wire.sse import DONE, Event, EventTooLarge, Splitter, looks_like_events
from gateway.wire.stripping.any_frame import AnyFrame
from gateway.wire.stripping.fast_strip import Frame

MAX_HELD_EVENT_BYTES = 64 * 1024
"""Maximum size in bytes of a partial event that is held back; a longer one is sent in pieces."""


class Reader(Protocol):
    """`feed` takes bytes from the worker and returns the bytes to send now.

    `close` returns the rest once the response is whole. `rewrites`: the body's length may change.
    """

    rewrites: bool

    def feed(self, data: bytes) -> bytes: ...
    def close(self) -> bytes: ...


def wants_plain(exchange: Exchange) -> bool:
    """Whether a compressed response to this call is to be decoded."""
    return exchange.stripper is not None or exchange.observers.needs_body


def choose_reader(
    exchange: Exchange, status: int, headers: Headers, limits: ServerLimits, *, events: bool
) -> Reader | None:
    """Return the reader that this response needs, or None. `events`: it is an event stream."""
    observers, dialect = exchange.observers, exchange.call.dialect
    stripper = exchange.stripper if status == 200 else None
    if events and is_plain(headers):
        if stripper or observers.event or observers.delta:
            return EventReader(exchange, stripper, limits.max_event_bytes)
        return StreamReader(observers)
    if not events and (stripper or (observers.delta and dialect)) and is_plain(headers):
        return AnswerReader(exchange, stripper, limits.max_body_bytes)
    return observers if observers.data or observers.counter else None


class AnyEvents:
    """The form of a stream of events that are forwarded as they are."""


ANY_EVENTS = AnyEvents()

Form = Frame | AnyFrame | AnyEvents | None
"""What the events of a stream have in common, as far as a kernel may know it: see `tapping`."""


class Sniffing:
    """The Reader of a response in a content type that does not fit what the call asked for.

    The first bytes show whether it is an event stream nevertheless. `choose` is called with that,
    and returns the reader for the whole response.
    """

    def __init__(self, choose: Callable[[bool], Reader | None]) -> None:
        self.rewrites = True
        self._choose: Callable[[bool], Reader | None] | None = choose
        self._reader: Reader | None = None
        self._held: bytes | None = b""

    def feed(self, data: bytes) -> bytes:
        if self._held is not None:
            data = self._held + data
            events = looks_like_events(data)
            if events is None:
                self._held = data
                return b""
            self._settle(events=events)
        return data if self._reader is None else self._reader.feed(data)

    def close(self) -> bytes:
        held = self._held
        if held is not None:
            self._settle(events=False)
        if self._reader is None:
            return held or b""
        return (self._reader.feed(held) if held else b"") + self._reader.close()

    def _settle(self, *, events: bool) -> None:
        self._held = None
        if self._choose is not None:
            self._reader = self._choose(events)
        self._choose = None  # it may hold the call, which would hold this in turn
        self.rewrites = self._reader is not None and self._reader.rewrites


class Discarding:
    """The Reader of a response that nobody gets."""

    rewrites = True

    def feed(self, data: bytes) -> bytes:
        return b""

    def close(self) -> bytes:
        return b""


class StreamReader:
    """Forwards an event stream in whole events, except for the `[DONE]` that ends it.

    A caller stops reading at `[DONE]`, so it is sent only after the call has been recorded. A
    partial event is not forwarded unless it is longer than MAX_HELD_EVENT_BYTES: no `error` event
    could follow it.
    """

    rewrites = False

    def __init__(self, observers: Observers) -> None:
        self._observers = observers
        self._held = b""

    @property
    def form(self) -> Form:
        """The form of the events to come, None while a part of one is held back."""
        return None if self._held else ANY_EVENTS

    def feed(self, data: bytes) -> bytes:
        if self._observers.data or self._observers.counter:
            self._observers.feed(data)
        if self._held:
            data, self._held = self._held + data, b""
        elif data.endswith(b"\n\n") and DONE not in data[-len(DONE) - 4 :]:
            return data  # nearly always
        end = len(data) if data.endswith(BLANK_LINES) else _end_of_events(data)
        if DONE in data[max(0, end - len(DONE) - 4) : end]:
            end = max(data.rfind(b"data:", 0, end), 0)
        if end == len(data) or len(data) - end > MAX_HELD_EVENT_BYTES:
            return data
        self._held = data[end:]
        return data[:end]

    def close(self) -> bytes:
        return self._held


def _after_two(data: bytes) -> int:
    """Offset after the second event that ends in two LF; the length of `data` if there is none."""
    end = data.find(b"\n\n", data.find(b"\n\n") + 2)
    return end + 2 if end >= 0 else len(data)


def _end_of_events(data: bytes) -> int:
    """Offset after the last whole event; 0 if none ends within the last MAX_HELD_EVENT_BYTES."""
    start = max(0, len(data) - MAX_HELD_EVENT_BYTES)
    for line in BLANK_LINES:
        found = data.rfind(line, start)
        if found >= 0:
            return found + len(line)
    return 0


class EventReader:
    """Splits an event stream once for all observers; forwards it without injected fields.

    `form` is that of the events to come, None while it is not known or a part of one is held back.
    """

    def __init__(self, exchange: Exchange, stripper: Stripper | None, max_bytes: int) -> None:
        self.rewrites = stripper is not None
        self._call = exchange.call
        self._observers = exchange.observers
        self._functions = exchange.chains.kernel.functions
        self._frame: Frame | AnyFrame | None = None
        self._cut: Cut | None = None
        self._stripper = stripper
        self._splitter: Splitter | None = Splitter(max_bytes)
        self._dialect = self._call.dialect
        self._one_by_one = bool(self._observers.event or self._observers.delta)
        self.form: Frame | AnyFrame | None = None
        self._end = b""

    def feed(self, data: bytes) -> bytes:
        if self._observers.data or self._observers.counter:
            self._observers.feed(data)
        if self.form is not None:
            cut = self.form.strip_one(data)
            if cut is not None:  # nearly always: one event, like those before it
                return cut
        if self._splitter is None:
            return data
        try:
            return self._read(data, self._splitter)
        except EventTooLarge:
            return self._give_up(self._splitter)

    def close(self) -> bytes:
        end, self._end, rest = self._end, b"", b""
        if self._splitter is not None:  # only now it is known that the last event is whole
            rest = b"".join([self._last(event) for event in self._splitter.close()])
        held = self._stripper.close() if self._stripper is not None else b""
        _note_torn(self._call, self._stripper)
        return end + rest + self._end + held

    def _read(self, data: bytes, splitter: Splitter) -> bytes:
        stripper = self._stripper
        if stripper is None or self._one_by_one or self._end:
            return self._each(splitter.feed(data))
        sent, between = b"", splitter.between_events
        if not between:  # the first events show the form of the others
            begun = _after_two(data)
            sent, data = self._each(splitter.feed(data[:begun])), data[begun:]
            between = splitter.between_events
        if data and between and not self._end:
            run, length = self._run(stripper, data)
            sent, data = sent + run, data[length:]
        if data:
            sent += self._each(splitter.feed(data))
            between = splitter.between_events
        self.form = stripper.frame if between and not self._end else None
        return sent

    def _run(self, stripper: Stripper, text: bytes) -> tuple[bytes, int]:
        """Strip the leading events of `text`, by the kernel if the kernel can."""
        frame = stripper.frame
        if frame is not self._frame:
            self._frame = frame
            self._cut = frame.cut(self._functions) if frame is not None else None
        cut = self._cut
        return (cut.strip_run(text) if cut is not None else None) or stripper.strip_run(text)

    def _each(self, events: list[Event]) -> bytes:
        if len(events) == 1:
            return self._pass(events[0])
        return b"".join([self._pass(event) for event in events])

    def _pass(self, event: Event) -> bytes:
        if self._observers.event:
            self._observers.notify_event(event)
        if event.data is not None and self._observers.delta and self._dialect is not None:
            _show_delta(self._call, self._observers, self._dialect.read_event, event.data)
        raw = self._stripper.event(event) if self._stripper is not None else event.raw
        if self._end:
            self._end += raw
            return b""
        if event.data == DONE:  # what waited for a usage goes out even if the end never comes
            self._end = event.raw
            return raw.removesuffix(event.raw)
        return raw

    def _last(self, event: Event) -> bytes:
        """Pass the last event; a plain answer sent as an event stream looks like one."""
        if event.data is not None or not event.raw.lstrip().startswith(b"{"):
            return self._pass(event)
        if self._observers.delta and self._dialect is not None:
            _show_delta(self._call, self._observers, self._dialect.read_answer, event.raw)
        return event.raw if self._stripper is None else self._stripper.plain(event.raw)

    def _give_up(self, splitter: Splitter) -> bytes:
        """Handle an event past the limit: forward the rest unparsed rather than fail the call."""
        self._splitter = self.form = None
        _note(self._call, "core: an event was larger than server_limits.max_event_bytes")
        held = self._stripper.close() if self._stripper is not None else b""
        return held + splitter.take_rest()


class AnswerReader:
    """Gathers a response that is no stream, shows it to observers and removes injected fields."""

    def __init__(self, exchange: Exchange, stripper: Stripper | None, max_bytes: int) -> None:
        self.rewrites = stripper is not None
        self._call = exchange.call
        self._observers = exchange.observers
        self._kernel = exchange.chains.kernel
        self._stripper = stripper
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        if self._observers.data or self._observers.counter:
            self._observers.feed(data)
        self._size += len(data)
        if self._size <= self._max_bytes:
            self._parts.append(data)
            return b"" if self.rewrites else data
        return self._give_up(data)

    def close(self) -> bytes:
        if self._size > self._max_bytes:
            return b""
        body = b"".join(self._parts)
        if self._observers.delta and self._call.dialect is not None:
            _show_delta(self._call, self._observers, self._call.dialect.read_answer, body)
        if self._stripper is None:
            return b""
        cut = self._stripper.plain(body, self._kernel)
        _note_torn(self._call, self._stripper)
        return cut

    def _give_up(self, data: bytes) -> bytes:
        if self._parts:
            _note(self._call, "core: the answer was larger than server_limits.max_body_bytes")
        held = b"".join(self._parts) if self.rewrites else b""
        self._parts = []
        return held + data


def _show_delta(
    call: Call, observers: Observers, read: Callable[[bytes], Delta], data: bytes
) -> None:
    try:
        delta = read(data)
    except Unreadable as error:
        _note(call, f"core: {error}")
        return
    if delta.usage is not None:
        call.outcome.usage = delta.usage
    observers.notify_delta(delta)


def _note_torn(call: Call, stripper: Stripper | None) -> None:
    if stripper is not None and stripper.torn:
        _note(call, "core: a response was no JSON, and what looked injected was taken out of it")


def _note(call: Call, failure: str) -> None:
    if failure not in call.outcome.failures:
        call.outcome.failures.append(failure)
