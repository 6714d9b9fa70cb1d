"""What a response says of itself: its id, the model, and why its choices ended.

An observer keeps the first and the last bytes of the responses whose spans are recorded. They are
read when the spans are made, in the exporter's thread.
"""

import re
from collections.abc import Iterator

import msgspec

from gateway import Gaps, Headers, is_event_stream

HEAD, TAIL, ROOM = 2_048, 4_096, 16_384
"""Bytes that are kept of a long response: of its first read, before its latest read, at most."""

MAX_TEXT = 1_024
"""Maximum characters of a text that a response may have made up."""

NO_BOUNDS: tuple[float, ...] = ()

_ENDS = re.compile(
    rb'"(?:finish_reason|stop_reason)"\s*:\s*"'
    rb'|"type"\s*:\s*"response\.(?:completed|incomplete|failed)"'
)


class Ends:
    """A collector that keeps the first and the last bytes, `whole` if they are all.

    The kernel fills `chunks` and lowers `room`; a chunk for which there is no room comes to `add`.
    """

    __slots__ = ("chunks", "closed", "room", "whole")

    times = None

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.room = ROOM
        self.closed = False
        self.whole = True

    def add(self, chunk: bytes) -> None:
        size = len(chunk)
        if size > self.room:
            self._make_room(chunk)
            chunk = chunk[-TAIL:]
            size = len(chunk)
        self.chunks.append(chunk)
        self.room -= size

    def _make_room(self, chunk: bytes) -> None:
        self.whole = False
        first, *others = self.chunks or [chunk]
        self.chunks[:] = [first[:HEAD], b"".join(others)[-TAIL:]]
        self.room = ROOM - sum(map(len, self.chunks))


class Watched:
    """The observer: keeps the ends of a response, and the time of a stream's first event.

    `streams`: the request asks for a stream.
    """

    __slots__ = ("collectors", "ends", "first", "stream")

    def __init__(self, streams: bool) -> None:
        self.ends = Ends()
        self.first = Gaps(NO_BOUNDS) if streams else None
        self.stream = False
        self.collectors = (self.ends,) if self.first is None else (self.ends, self.first)

    def started(self, status: int, headers: Headers) -> None:
        self.stream = is_event_stream(headers)


class Said(msgspec.Struct):
    """What a response says of itself. `reasons` are in the order of the choices."""

    id: str = ""
    model: str = ""
    reasons: tuple[str, ...] = ()


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Detail(msgspec.Struct):
    reason: str | None = None


class _Object(msgspec.Struct):
    """A response of any API, an event of its stream, or the object within that event."""

    id: str = ""
    model: str = ""
    choices: list[_Choice] = []
    stop_reason: int | str | None = None
    status: str | None = None
    incomplete_details: _Detail | None = None
    message: "_Object | None" = None
    response: "_Object | None" = None
    delta: "_Object | None" = None


_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_REASON = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"(\w{1,40})"')

_read = msgspec.json.Decoder(_Object).decode


def said_of(watched: Watched) -> Said:
    """Read a response; what cannot be read is empty. Never raises."""
    data = b"".join(watched.ends.chunks)
    if not (watched.stream or watched.ends.whole):
        return _search(data)
    found = Said()
    reasons: dict[int, str] = {}
    for text in _events(data) if watched.stream else (data,):
        try:
            _note(_read(text), found, reasons)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
    found.reasons = tuple([reasons[place][:MAX_TEXT] for place in sorted(reasons)])
    found.id, found.model = found.id[:MAX_TEXT], found.model[:MAX_TEXT]
    return found


def _search(data: bytes) -> Said:
    """What can be told of a plain response of which the middle is missing."""
    model = _MODEL.search(data, 0, HEAD)
    reasons = [reason.decode() for reason in _REASON.findall(data, HEAD)]
    return Said(
        model="" if model is None else model[1].decode(errors="replace"), reasons=tuple(reasons)
    )


def _events(data: bytes) -> Iterator[bytes]:
    """The data of the first event, and of those that say how a choice ended."""
    at = data.find(b"data:")
    if at < 0:
        return
    yield _line(data, at)
    for match in _ENDS.finditer(data, at):
        begins = data.rfind(b"data:", 0, match.start())
        if begins > at:
            yield _line(data, begins)
            at = begins


def _line(data: bytes, at: int) -> bytes:
    end = data.find(b"\n", at)
    return data[at + 5 : end if end >= 0 else len(data)]


def _note(read: _Object, found: Said, reasons: dict[int, str]) -> None:
    inner = read.response or read.message or read
    found.id = found.id or inner.id
    found.model = found.model or inner.model
    for choice in read.choices:
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    if not read.choices and (reason := _reason(inner) or _reason(read.delta)):
        reasons[0] = reason


def _reason(read: _Object | None) -> str | None:
    """Why a response of Messages or Responses ended."""
    if read is None:
        return None
    if isinstance(read.stop_reason, str):
        return read.stop_reason
    if read.incomplete_details is not None and read.incomplete_details.reason:
        return read.incomplete_details.reason
    return read.status if read.status in ("completed", "failed", "cancelled") else None
