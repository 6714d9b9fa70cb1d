"""Server-sent events, split as they arrive and without losing a byte.

The format is WHATWG's event stream (HTML Living Standard, section 9.2.6): lines end in LF, CR or
CRLF, a blank line ends an event. A proxy forwards all bytes, so two things differ from a browser: a
stream that ends without its last blank line still yields that event, and a frame without data (a
comment, a stray blank line) is returned too.
"""

import re

import msgspec

from gateway.errors import GatewayError

DEFAULT_MAX_EVENT_BYTES = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_MAX_BEGINNING = 64
_LINE_END = re.compile(rb"\r\n|\n|\r")
# A CR that is the last byte so far may be half of a CRLF. If it closed a frame, the LF that follows
# would be taken for one more blank line.
_BLANK_LINE = re.compile(rb"\r\n|\n|\r(?=[^\n])")
_FRAME_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")


DONE = b"[DONE]"
"""Data of the event that ends a stream in most APIs."""


class EventTooLarge(GatewayError):
    """An unfinished event exceeds the buffer limit; see `Splitter.take_rest`."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One frame of a stream: the bytes up to and including a blank line.

    `raw` is the frame as received: the `raw` of all events, joined, is the stream. `data` is its
    data lines joined with LF, or None if it has none. `event` and `id` are the fields of that name,
    "" if absent.
    """

    raw: bytes
    data: bytes | None = None
    event: str = ""
    id: str = ""


class Splitter:
    """Splits one stream into events, independently of its chunk boundaries.

    `max_event_bytes` is the maximum number of bytes buffered of an unfinished event.
    """

    __slots__ = ("_at_start", "_max", "_rest")

    def __init__(self, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._rest = bytearray()
        self._at_start = True

    @property
    def between_events(self) -> bool:
        """Whether the next byte certainly begins an event."""
        return not (self._rest or self._at_start)

    @property
    def is_empty(self) -> bool:
        """Whether no part of an event is buffered."""
        return not self._rest

    def skip(self) -> None:
        """Take note that whole events were read elsewhere, the first one among them."""
        self._at_start = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that end in `chunk`.

        Raises EventTooLarge if the buffer exceeds its limit. No event is lost then, and `take_rest`
        returns the buffered bytes, `chunk` included: forward them and the rest of the stream
        without splitting.
        """
        events = self._resume(chunk) if self._rest or self._at_start else self._split(chunk)
        if not events and len(self._rest) > self._max:
            raise EventTooLarge(
                f"an event of the stream has {len(self._rest)} bytes and no end yet; "
                f"at most {self._max} are held back"
            )
        return events

    def close(self) -> list[Event]:
        """Return the last event, if the stream ended without the blank line after it."""
        rest = self.take_rest()
        return [_parse(rest)] if rest else []

    def take_rest(self) -> bytes:
        """Return the bytes that belong to no event yet, and clear the buffer."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _resume(self, chunk: bytes) -> list[Event]:
        if self._at_start:
            return self._start(chunk)
        # Search only the seam, so that a long event costs the same in small chunks as in one.
        seam = self._rest[-3:] + chunk
        may_end = b"\n\n" in seam or (b"\r" in seam and _FRAME_END.search(seam) is not None)
        lone_cr = len(self._rest) == 1
        self._rest += chunk
        return self._split(self.take_rest()) if may_end or lone_cr else []

    def _start(self, chunk: bytes) -> list[Event]:
        if chunk.startswith(_FIELDS) and not self._rest:  # nearly always
            self._at_start = False
            return self._split(chunk)
        self._rest += chunk
        if len(self._rest) < len(_BOM) and _BOM.startswith(bytes(self._rest)):
            return []
        self._at_start = False
        text = self.take_rest()
        if text.startswith(_BOM):
            return [Event(_BOM), *self._split(text[len(_BOM) :])]
        return self._split(text)

    def _split(self, text: bytes) -> list[Event]:
        if _is_single_line(text):
            return [Event(text, text[6:-2])]
        if text.find(b"\r") >= 0:
            events, rest = _split_any(text)
        else:
            events, rest = _split_lf(text)
        self._rest += rest
        return events


def after_two(text: bytes) -> int:
    """Offset after the second event that ends in two LF; the length of `text` if there is none."""
    end = text.find(b"\n\n", text.find(b"\n\n") + 2)
    return end + 2 if end >= 0 else len(text)


def looks_like_events(text: bytes) -> bool | None:
    """Whether a body that begins with `text` is an event stream; None if that is too little."""
    begun = text.removeprefix(_BOM).lstrip()
    if begun.startswith(_FIELDS):
        return True
    short = len(text) < _MAX_BEGINNING
    may = _BOM.startswith(text) or any(one.startswith(begun) for one in _FIELDS)
    return None if short and may else False


def encode(data: bytes, event: str = "") -> bytes:
    """Encode an event for the wire. Line ends within `data` reach the reader as LF."""
    head = b"event: %b\n" % event.encode() if event else b""
    lines = [b"data: %b\n" % line for line in _LINE_END.split(data)]
    return b"%b%b\n" % (head, b"".join(lines))


def with_data(event: Event, data: bytes) -> bytes:
    """Return the bytes of `event` with `data` in place of its own data; its other lines stay.

    `event` must have data, and `data` at most as many lines. What stands around each line stays.
    """
    raw, old = event.raw, event.data
    if old is not None and raw == b"data: %b\n\n" % old:
        return b"data: %b\n\n" % data
    new = data.split(b"\n")
    lines = raw.splitlines(keepends=True)
    numbers = [number for number, line in enumerate(lines) if _is_data(line)]
    gone, kept = set(numbers[: -len(new)]), numbers[-len(new) :]
    for number, value in zip(kept, new, strict=True):
        lines[number] = _with_value(lines[number], value)
    return b"".join(line for number, line in enumerate(lines) if number not in gone)


def _with_value(line: bytes, value: bytes) -> bytes:
    end = line[len(line.rstrip(b"\r\n")) :]
    return b"%b%b%b" % (b"data: " if line.startswith(b"data: ") else b"data:", value, end)


def _is_single_line(text: bytes) -> bool:
    """Whether `text` is one event with a single line of data, as nearly all are."""
    return (
        text.find(b"\n") == len(text) - 2
        and text[-1] == 10
        and text.startswith(b"data: ")
        and text.find(b"\r") < 0  # `in` costs five times as much
    )


def _is_data(line: bytes) -> bool:
    return line.rstrip(b"\r\n").partition(b":")[0] == b"data"


def _split_lf(text: bytes) -> tuple[list[Event], bytes]:
    """Split as `_split_any` does, for text without a CR and several times as fast."""
    *frames, rest = text.split(b"\n\n")
    events: list[Event] = []
    for frame in frames:
        if frame.startswith(b"data: ") and frame.find(b"\n") < 0:
            events.append(Event(frame + b"\n\n", frame[6:]))
        else:
            events.extend(_split_any(frame + b"\n\n")[0])
    if rest.startswith(b"\n"):
        events.append(Event(b"\n"))
        rest = rest[1:]
    return events, rest


def _split_any(text: bytes) -> tuple[list[Event], bytes]:
    """Return the events that end in `text`, and the bytes left after them."""
    events: list[Event] = []
    start = 0
    while end := _BLANK_LINE.match(text, start) or _FRAME_END.search(text, start):
        events.append(_parse(text[start : end.end()]))
        start = end.end()
    return events, text[start:]


def _parse(frame: bytes) -> Event:
    data: list[bytes] = []
    event = id_ = ""
    for line in frame.splitlines():
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            id_ = value.decode(errors="replace")
    return Event(frame, b"\n".join(data) if data else None, event, id_)
