"""The bytes of an upload, decompressed as they are read."""

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from gateway_plugins.uploads.installing.messages import Refusal

ZSTD_SLICE = 16 * 1024
"""Compressed bytes that are decompressed at a time: at most 512 MiB come of them."""

GZIP_SLICE = 256 * 1024
PIECE = 1024 * 1024

ZSTD_WINDOW = 128 * 1024 * 1024
"""Maximum window of a zstd frame in bytes, as of the `zstd` program."""

_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_GZIP = b"\x1f\x8b"


class Source(Protocol):
    """Bytes in order; `read` returns at most `size` of them, b"" at the end. Raises Refusal."""

    def read(self, size: int, /) -> bytes: ...


class Joined:
    """The contents of files, one after the other. `moved` gets how many bytes were read."""

    def __init__(self, paths: Sequence[Path], moved: Callable[[int], None]) -> None:
        self._paths = list(reversed(paths))
        self._moved = moved
        self._file: BinaryIO | None = None
        self.done = 0

    def read(self, size: int, /) -> bytes:
        while True:
            if self._file is None:
                if not self._paths:
                    return b""
                self._file = self._paths.pop().open("rb", buffering=0)
            if data := self._file.read(size):
                self.done += len(data)
                self._moved(self.done)
                return data
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Gzip:
    """One or several gzip members, with zeros after them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream = zlib.decompressobj(31)
        self._data = b""
        self._begun = False

    def read(self, size: int, /) -> bytes:
        while True:
            if not self._data:
                self._data = self._source.read(GZIP_SLICE)
                if not self._data:
                    return self._ended()
            if not self._begun:
                self._data = self._data.lstrip(b"\0")
            if not self._data:
                continue
            self._begun = True
            if found := self._decompress(size):
                return found

    def _decompress(self, size: int) -> bytes:
        stream = self._stream
        try:
            found = stream.decompress(self._data, size)
        except zlib.error as error:
            raise Refusal("bad_archive", f"the gzip data is broken: {error}") from None
        self._data = stream.unconsumed_tail
        if stream.eof:
            self._data = stream.unused_data
            self._stream, self._begun = zlib.decompressobj(31), False
        return found

    def _ended(self) -> bytes:
        if self._begun and (rest := self._stream.flush()):
            return rest
        if self._begun:
            raise Refusal("bad_archive", "the gzip data is truncated")
        return b""


class Zstd:
    """One or several zstd frames."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame = self._decompressor.decompressobj()
        self._begun = False
        self._rest = b""
        self._found = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._found:
            data = self._rest or self._source.read(ZSTD_SLICE)
            self._rest = b""
            if not data:
                if self._begun:
                    raise Refusal("bad_archive", "the zstd data is truncated")
                return b""
            self._found = memoryview(self._decompress(data))
        found, self._found = self._found[:size], self._found[size:]
        return bytes(found)

    def _decompress(self, data: bytes) -> bytes:
        self._begun = True
        try:
            found = self._frame.decompress(data)
        except zstandard.ZstdError as error:
            raise Refusal("bad_archive", f"the zstd data is broken: {error}") from None
        if self._frame.eof:
            self._rest = self._frame.unused_data
            self._frame, self._begun = self._decompressor.decompressobj(), False
        return found


class Counted:
    """Reads from a source up to `limit` bytes. Raises Refusal if it has more."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source = source
        self._limit = limit
        self.done = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.done += len(data)
        if self.done > self._limit:
            raise Refusal(
                "too_large",
                f"the archive has more than {self._limit} bytes unpacked "
                "(uploads.max_ratio, uploads.max_unpacked_bytes)",
            )
        return data


def decompressed(source: Source, beginning: bytes) -> Source:
    """Return the contents of a source with this beginning."""
    if _ZSTD.match(beginning):
        return Zstd(source)
    return Gzip(source) if beginning.startswith(_GZIP) else source
