"""Decodes a compressed response piece by piece: gzip and deflate (RFC 9110, 8.4.1).

The gateway asks workers not to compress what it has to read, but not all of them, nor all proxies
before them, follow that.
"""

import zlib

from gateway.errors import UpstreamProtocol

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_BARE = -zlib.MAX_WBITS  # what some servers send as `deflate`

_WRONG = "the worker's answer is not in the form that its content-encoding names"
_MAX_FIRST = 1024
_MEMBER = b"\x1f\x8b"

_NO_CODING = frozenset((b"", b"identity", b"none"))

_WINDOWS = {b"gzip": _GZIP, b"x-gzip": _GZIP, b"deflate": _ZLIB}


class ContentDecoder:
    """Decodes one response. `max_bytes` bounds what one piece of it may become."""

    __slots__ = ("_first", "_max", "_window", "_zlib")

    def __init__(self, window: int, max_bytes: int) -> None:
        self._window = window
        self._max = max_bytes
        self._zlib = zlib.decompressobj(window)
        self._first: bytes | None = b""  # until something has been decoded

    def feed(self, data: bytes) -> bytes:
        """Return the decoded bytes of `data`.

        Raises UpstreamProtocol if they are not in that coding, or larger than `max_bytes`.
        """
        found = self._decode(data)
        if len(found) > self._max:
            raise UpstreamProtocol("a piece of the worker's compressed answer is too large")
        return found

    def close(self) -> None:
        """Raise UpstreamProtocol if nothing of a response could be decoded.

        Bare `deflate` has no mark of its own, so that one must be whole.
        """
        if (self._first or self._window == _BARE) and not self._zlib.eof:
            raise UpstreamProtocol(_WRONG)

    def _decode(self, data: bytes) -> bytes:
        found = self._step(data)
        # gzip may have several members; what follows otherwise is padding.
        while self._zlib.eof and self._zlib.unused_data.startswith(_MEMBER):
            data = self._zlib.unused_data
            self._zlib = zlib.decompressobj(self._window)
            found += self._step(data)
            if len(found) > self._max:
                break
        return found

    def _step(self, data: bytes) -> bytes:
        try:
            found = self._zlib.decompress(data, self._max + 1)
        except zlib.error:
            return self._bare(data)
        self._first = None if found or self._first is None else (self._first + data)[:_MAX_FIRST]
        return found

    def _bare(self, data: bytes) -> bytes:
        """Decode from the beginning what turns out to be `deflate` without its wrapping."""
        if self._window != _ZLIB or self._first is None or len(self._first) == _MAX_FIRST:
            raise UpstreamProtocol(_WRONG)
        self._window = _BARE
        self._zlib = zlib.decompressobj(_BARE)
        return self._step(self._first + data)


def decoder_of(coding: bytes, max_bytes: int) -> ContentDecoder | None:
    """Return a decoder of the value of a `content-encoding`, None if it cannot be decoded."""
    codings = _codings(coding)
    window = _WINDOWS.get(codings[0]) if len(codings) == 1 else None
    return None if window is None else ContentDecoder(window, max_bytes)


def is_identity(coding: bytes) -> bool:
    """Whether the value of a `content-encoding` says in other words that there is no coding."""
    return not _codings(coding)


def _codings(value: bytes) -> list[bytes]:
    names = [name.strip().lower() for name in value.split(b",")]
    return [name for name in names if name not in _NO_CODING]
