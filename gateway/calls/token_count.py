"""The tokens of a call at its end: as the engine reports them, else counted in the stream.

Nothing is parsed while a response runs. Its chunks are kept and parsed at the end, because the last
ones contain the usage. A long stream would take too much memory, so its tokens are counted and its
chunks dropped after every MAX_UNPARSED_BYTES bytes.
"""

from typing import ClassVar

import msgspec

from gateway.calls.body import Body
from gateway.kernel.interface import Functions
from gateway.wire.reported.count import Count, settled
from gateway.wire.reported.usage import Usage, WireUsage, read_usage
from gateway.wire.request import echoes, has_several, read_bounds
from gateway.wire.sse import Event, EventTooLarge, Splitter

MAX_UNPARSED_BYTES = 64 * 1024
"""Maximum bytes of a stream to keep unparsed."""

MAX_PARSED_BYTES = 64 * 1024 * 1024
"""Maximum bytes of a plain response, or of one event; above it the tokens stay unknown."""


class TokenCounter(msgspec.Struct, eq=False, gc=False):
    """The core's own observer of one response, whose tokens a plugin wants counted: a Gatherer.

    `stream`: the response is an event stream. It is `closed` to the rest of one that is too large.
    """

    stream: bool
    chunks: list[bytes] = []
    room: int = MAX_UNPARSED_BYTES
    closed: bool = False
    _count: Count | None = None
    _splitter: Splitter | None = None
    _told: WireUsage | None = None

    times: ClassVar[list[float] | None] = None

    def add(self, chunk: bytes) -> None:
        if self.closed:
            return
        self.chunks.append(chunk)
        self.room -= len(chunk)
        if self.room < 0:
            self._make_room()

    @property
    def kept(self) -> list[bytes] | None:
        """The whole response so far, None if it is not kept. For use before `usage`."""
        return self.chunks if not self.closed and self._count is None else None

    @property
    def so_far(self) -> int:
        """Approximate tokens so far: the counted ones, plus one for each chunk since."""
        if not self.stream:
            return 0
        return len(self.chunks) + (0 if self._count is None else self._count.completion)

    def usage(self, request: Body, functions: Functions) -> Usage | None:
        """Return the usage of the call with this request, None if it is unknown.

        Call it once, at the end of the call. `functions` are those of the kernel.
        """
        if self.closed:
            return None
        chunks = self.chunks
        # No event begins with a brace, whatever the content type.
        if self.stream and not (self._count is None and chunks and chunks[0][:1] == b"{"):
            return self._of_stream(request, functions)
        body, self.chunks = b"".join(chunks), []
        if not request.may_have_several and (usual := functions.read_usage(body)) is not None:
            return Usage(*usual)
        told = read_usage(body)
        if told is None:
            return None
        return told.read() if _is_certain(told, request) else _of_answer(told, body, request)

    def _make_room(self) -> None:
        if self.stream:
            self._count_events(self._events())
        elif MAX_UNPARSED_BYTES - self.room > MAX_PARSED_BYTES:
            self.closed = True
            self.chunks = []

    def _of_stream(self, request: Body, functions: Functions) -> Usage:
        line = _last_usage_line(self.chunks)
        if not request.may_have_several and (usual := functions.read_usage(line)) is not None:
            return Usage(*usual)
        told = read_usage(line) if line else None
        if told is not None and told.prompt_tokens is not None:  # most streams end with the whole
            self._told = told
            if _is_certain(told, request):
                return told.read()
        events = self._events()
        if self._splitter is not None:
            events += self._splitter.close()
        self._count_events(events)
        return _settled(self._told, self._count or Count(), request)

    def _count_events(self, events: list[Event]) -> None:
        count = self._count = self._count or Count()
        for event in events:
            if event.data is None:
                continue
            told = read_usage(event.data) if b"_tokens" in event.data else None
            if told is not None:
                self._told = told if self._told is None else self._told.merged(told)
            count.add(event.data)

    def _events(self) -> list[Event]:
        """Return the complete events in the kept chunks, and drop these chunks."""
        text, self.chunks, self.room = b"".join(self.chunks), [], MAX_UNPARSED_BYTES
        if self._splitter is None:
            self._splitter = Splitter(MAX_PARSED_BYTES)
        try:
            return self._splitter.feed(text)
        except EventTooLarge:
            self.closed = True
            return []


def _of_answer(told: WireUsage, body: bytes, request: Body) -> Usage:
    count = Count()
    count.add_answer(body)
    return _settled(told, count, request)


def _is_certain(told: WireUsage, request: Body) -> bool:
    """Whether the response need not be counted too: both counts are told, and not of one choice.

    With `echo`, the logprobs are the prompt's too, so that the engine's count is the better one.
    """
    both = (told.prompt_tokens and told.completion_tokens) or (told.prompt and told.completion)
    if both and not request.may_have_several:
        return True
    data = request.data or b""
    if not both:
        return bool(told.prompt and told.completion == 0 and echoes(data))
    return not has_several(data) or echoes(data)


def _settled(told: WireUsage | None, count: Count, request: Body) -> Usage:
    choices = read_bounds(request.data or b"").n or 1
    return settled(told, count, request.prompt_estimate, choices)


def _last_usage_line(chunks: list[bytes]) -> bytes:
    """Return the latest data line with token counts in the last two chunks; empty if none."""
    text = b"".join(chunks[-2:])
    end = text.rfind(b"_tokens")
    if end < 0:
        return b""
    start = text.rfind(b"\ndata:", 0, end) + 1
    line = text[start : text.find(b"\n", end)]
    return line[5:] if line[:5] == b"data:" else b""
