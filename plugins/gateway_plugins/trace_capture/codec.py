"""Storage formats: delta encoding of texts, compression, and packed numbers."""

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import zstandard

MIN_COMPRESSED_SIZE = 96
"""Size in bytes below which compression gains nothing."""

SMALL = 4 * 1024
"""Size in bytes below which level 1 is used with a dictionary, small_traces.zdict, that has what
most traces have: it takes half of the time of level 3 without one, and 5 to 25% less space. It was
trained by tests/bench/dictionary.py, and is never changed.
"""

LARGE = 32 * 1024
"""Size in bytes from which zstandard's level 1 is used in place of 3: it takes less than half of
the time, and 4% more space for text and token ids, less for alternatives of tokens.
"""

MAX_DECOMPRESSED = 1 << 31
"""Maximum bytes of a decompressed blob: a damaged file must not exhaust the memory."""

N = TypeVar("N", int, float)

_PLAIN, _ZSTD, _SMALL = b"\0", b"\1", b"\2"

_DICTIONARY = zstandard.ZstdCompressionDict(
    Path(__file__).with_name("small_traces.zdict").read_bytes()
)
_DICTIONARY.precompute_compress(level=1)

_encode = msgspec.msgpack.Encoder().encode
_decode_texts = msgspec.msgpack.Decoder(list[str]).decode


class Codec:
    """Reused zstandard contexts; for one thread at a time."""

    def __init__(self) -> None:
        self._compress_small = zstandard.ZstdCompressor(
            level=1, dict_data=_DICTIONARY, write_content_size=True, write_dict_id=False
        ).compress
        self._compress = zstandard.ZstdCompressor(level=3, write_content_size=True).compress
        self._compress_large = zstandard.ZstdCompressor(level=1, write_content_size=True).compress
        self._decompress = zstandard.ZstdDecompressor().decompress
        self._decompress_small = zstandard.ZstdDecompressor(dict_data=_DICTIONARY).decompress

    def compress(self, data: bytes) -> bytes:
        """Return `data`, compressed if that makes it shorter; the first byte marks the form."""
        size = len(data)
        if size >= MIN_COMPRESSED_SIZE:
            if size < SMALL:
                form, compressed = _SMALL, self._compress_small(data)
            else:
                compress = self._compress if size < LARGE else self._compress_large
                form, compressed = _ZSTD, compress(data)
            if len(compressed) < size:
                return form + compressed
        return _PLAIN + data

    def decompress(self, blob: bytes) -> bytes:
        """Return the data of a blob made by `compress`. Raises ValueError for anything else."""
        form = blob[:1]
        if form == _PLAIN:
            return blob[1:]
        decompress = self._decompress_small if form == _SMALL else self._decompress
        try:
            return decompress(blob[1:], max_output_size=MAX_DECOMPRESSED)
        except zstandard.ZstdError as error:
            raise ValueError(f"not a compressed blob: {error}") from None


class TextDelta(msgspec.Struct, array_like=True, frozen=True):
    """A text: the base's first `prefix` bytes, `middle`, and the base's last `suffix` bytes."""

    prefix: int
    suffix: int
    middle: bytes

    def apply(self, base: bytes) -> bytes:
        """Return the text. Raises ValueError if `base` is too short to be its base."""
        if self.prefix + self.suffix > len(base):
            raise ValueError("the base is shorter than what is taken of it")
        return base[: self.prefix] + self.middle + base[len(base) - self.suffix :]


def text_delta(base: bytes, text: bytes) -> TextDelta:
    """Encode `text` against `base`; `text_delta(b"", text)` holds the whole text."""
    if not base:
        return TextDelta(0, 0, text)
    prefix = common_prefix(base, text)
    most = min(len(base), len(text)) - prefix
    suffix = common_prefix(base[: -most - 1 : -1], text[: -most - 1 : -1]) if most else 0
    return TextDelta(prefix, suffix, text[prefix : len(text) - suffix])


def common_prefix(one: bytes, other: bytes) -> int:
    """Length in bytes of the common prefix, by bisection: each comparison is a fast memcmp."""
    if other.startswith(one):
        return len(one)
    if one.startswith(other):
        return len(other)
    same, differ = 0, min(len(one), len(other))
    while differ - same > 1:
        middle = (same + differ) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            differ = middle
    return same


def pack_ids(ids: Sequence[int]) -> bytes:
    """Pack as int32, little-endian. Raises OverflowError if a value is not a token id."""
    try:
        return struct.pack(f"<{len(ids)}i", *ids)  # takes a quarter of the time of `array`
    except struct.error as error:
        raise OverflowError(str(error)) from None


def unpack_ids(packed: bytes) -> list[int]:
    numbers = array("i")
    numbers.frombytes(packed)
    return _little(numbers).tolist()


def pack_logprobs(values: Sequence[float | None]) -> bytes:
    """Pack as float32, little-endian; None becomes NaN, which no engine can send in JSON.

    If float32 would change a value, the values are also in the part's `extra` (see numbers.py).
    """
    try:
        return struct.pack(f"<{len(values)}f", *values)  # works if no value is None, the usual case
    except (struct.error, OverflowError):
        numbers = array("f", [math.nan if value is None else value for value in values])
        return _little(numbers).tobytes()


def fits_float32(values: list[float | None], packed: bytes) -> bool:
    """Whether packing changed none of the values."""
    if list(struct.unpack(f"<{len(values)}f", packed)) == values:
        return True
    return None in values and unpack_logprobs(packed) == values


def unpack_logprobs(packed: bytes) -> list[float | None]:
    numbers = array("f")
    numbers.frombytes(packed)
    return [None if math.isnan(value) else value for value in _little(numbers)]


def pack_texts(texts: Iterable[str]) -> bytes:
    """Pack as a list of MessagePack."""
    return _encode(list(texts))


def unpack_texts(packed: bytes) -> list[str]:
    """Raises a ValueError if `packed` has no list of texts."""
    return _decode_texts(packed)


def _little(numbers: "array[N]") -> "array[N]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
