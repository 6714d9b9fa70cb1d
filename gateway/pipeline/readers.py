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
from gateway.kernel.interface import Cut, Functions, Strip
from gateway.pipeline.exchange import Exchange
from gateway.wire.dialect import Delta, Unreadable
from gateway.wire.injection import Stripper
from gateway.wire.sse import DONE, Event, EventTooLarge, Splitter, after_two
from gateway.wire.stripping.any_frame import AnyFrame
from gateway.wire.stripping.fast_strip import Frame

_DONE_EVENT = b"data: [DONE]\n\n"

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
    translated = exchange.call.translated_from is not None
    return translated or exchange.stripper is not None or exchange.observers.needs_body


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

Form = Strip | Frame | AnyFrame | AnyEvents | None
"""What the events of a stream have in common, as far as a kernel may know it: see `tapping`."""


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
        kernel = exchange.chains.kernel
        self._functions = kernel.functions if kernel.name != "python" else None
        self._frame: Frame | AnyFrame | None = None
        self._cut_of: Frame | AnyFrame | None = None
        self._cut: Cut | None = None
        self._stripper = stripper
        self._splitter: Splitter | None = Splitter(max_bytes)
        self._dialect = self._call.dialect
        self._one_by_one = bool(self._observers.event or self._observers.delta)
        self.form: Strip | Frame | AnyFrame | None = None
        self._end = b""

    def feed(self, data: bytes) -> bytes:
        if self._observers.data or self._observers.counter:
            self._observers.feed(data)
        if self._frame is not None:
            cut = self._frame.strip_one(data)
            if cut is not None:  # nearly always: one event, like those before it
                return cut
        return self._read(data, self._splitter) if self._splitter is not None else data

    def close(self) -> bytes:
        end, self._end, rest = self._end, b"", b""
        if self._splitter is not None and not self._splitter.is_empty:
            # Only now it is known that the last event is whole.
            rest = b"".join([self._last(event) for event in self._splitter.close()])
        held = self._stripper.close() if self._stripper is not None else b""
        _note_torn(self._call, self._stripper)
        return end + rest + self._end + held

    def _read(self, data: bytes, splitter: Splitter) -> bytes:
        stripper = self._stripper
        if stripper is None or self._one_by_one or self._end:
            return self._split(splitter, data)
        stripper.look(data)
        sent, rest = b"", data
        empty = splitter.is_empty
        if empty and data != _DONE_EVENT and self._functions is not None:
            sent, rest = self._by_kernel(stripper, splitter, data, self._functions)
            if not rest:
                return sent
        if empty and rest == _DONE_EVENT:
            splitter.skip()
            self._end, self.form, self._frame = rest, None, None
            return sent + stripper.close()
        sent += self._by_python(stripper, splitter, rest, ended=rest is not data)
        self.form = self._frame = None
        if self._is_between(splitter):
            self._note_form(stripper)
        return sent

    def _by_kernel(
        self, stripper: Stripper, splitter: Splitter, data: bytes, functions: Functions
    ) -> tuple[bytes, bytes]:
        """Strip the events that the kernel takes; return the result and the rest."""
        strip = stripper.by(functions)
        run = strip.strip_run(data) if strip is not None else None
        if run is None:
            return b"", data
        splitter.skip()
        self.form, self._frame = strip, None
        return run[0], data[run[1] :]

    def _by_python(
        self, stripper: Stripper, splitter: Splitter, data: bytes, *, ended: bool
    ) -> bytes:
        """Strip the rest of a read; `ended`: events have ended in it before."""
        sent = b""
        if not splitter.between_events:  # the first events show the form of the others
            begun = after_two(data)
            sent, data = self._split(splitter, data[:begun], ended=ended), data[begun:]
            ended = True
        if data and self._is_between(splitter):
            run, length = self._run(stripper, data)
            sent, data, ended = sent + run, data[length:], ended or length > 0
        return sent + self._split(splitter, data, ended=ended) if data else sent

    def _is_between(self, splitter: Splitter) -> bool:
        """Whether the next byte begins an event that may have injected fields."""
        return splitter.between_events and not self._end and self._splitter is not None

    def _note_form(self, stripper: Stripper) -> None:
        if self._functions is not None:
            self.form = stripper.by(self._functions)
        if self.form is None:
            self.form = self._frame = stripper.frame

    def _run(self, stripper: Stripper, text: bytes) -> tuple[bytes, int]:
        """Strip the leading events of `text`, by the kernel if the kernel can."""
        frame, functions = stripper.frame, self._functions
        if functions is not None and frame is not self._cut_of:
            self._cut_of = frame
            self._cut = frame.cut(functions) if frame is not None else None
        cut = self._cut
        return (cut.strip_run(text) if cut is not None else None) or stripper.strip_run(text)

    def _split(self, splitter: Splitter, data: bytes, *, ended: bool = False) -> bytes:
        if self._splitter is None:
            return data
        try:
            return self._each(splitter.feed(data))
        except EventTooLarge:
            return b"" if ended else self._give_up(splitter)

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
        self._splitter = self.form = self._frame = None
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
