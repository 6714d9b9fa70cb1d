"""Requests and responses as the queue stores them: compressed if that makes them shorter."""

import threading

import zstandard

MIN_COMPRESSED = 128
"""Size in bytes below which compression gains nothing."""

MAX_TEXT = 1 << 30
"""Maximum bytes of an unpacked text: a damaged file must not exhaust the memory."""

_PLAIN, _ZSTD = b"\0", b"\1"


class _Contexts(threading.local):
    """A thread's own: one is costly to make and may be used by one thread at a time."""

    def __init__(self) -> None:
        self.packing = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self.unpacking = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def pack(text: bytes) -> bytes:
    """Return `text` as it is stored; the first byte marks the form."""
    if len(text) >= MIN_COMPRESSED:
        packed = _contexts.packing.compress(text)
        if len(packed) < len(text):
            return _ZSTD + packed
    return _PLAIN + text


def unpack(stored: bytes) -> bytes:
    """Return a text that `pack` packed. Raises ValueError for anything else."""
    if not isinstance(stored, bytes):
        raise ValueError("not a packed text: no bytes")
    if stored[:1] == _PLAIN:
        return stored[1:]
    frame = stored[1:]
    try:
        size = zstandard.frame_content_size(frame)
        if 0 <= size <= MAX_TEXT:  # so much memory is taken, whatever follows
            return _contexts.unpacking.decompress(frame)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a packed text: {error}") from None
    raise ValueError(f"not a packed text: its size is {size}")
