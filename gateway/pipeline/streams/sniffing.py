"""Finds out by its first bytes whether a response is an event stream."""

from collections.abc import Callable

from gateway.pipeline.readers import Reader
from gateway.wire.sse import looks_like_events


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
