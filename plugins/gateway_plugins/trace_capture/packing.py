"""How bytes become few: what a text shares with an earlier one, compression, packed numbers."""

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import TypeVar

import msgspec
import zstandard

LEVEL = 3
SMALL = 96
"""Bytes below which compression gains nothing."""

LARGEST = 1 << 31
"""Bytes that a blob may unfold to: a damaged file must not take all memory."""

N = TypeVar("N", int, float)

_PLAIN, _ZSTD = b"\0", b"\1"


class Codec:
    """zstandard contexts, reused; for one thread at a time."""

    def __init__(self) -> None:
        self._compress = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def squeeze(self, data: bytes) -> bytes:
        """`data`, compressed where that makes it shorter; the first byte says which."""
        if len(data) >= SMALL:
            compressed = self._compress(data)
            if len(compressed) < len(data):
                return _ZSTD + compressed
        return _PLAIN + data

    def unfold(self, blob: bytes) -> bytes:
        """Back from `squeeze`. Raises ValueError for anything else."""
        if blob[:1] == _PLAIN:
            return blob[1:]
        try:
            return self._decompress(blob[1:], max_output_size=LARGEST)
        except zstandard.ZstdError as error:
            raise ValueError(f"not a compressed blob: {error}") from None


class Delta(msgspec.Struct, array_like=True, frozen=True):
    """A text as what it shares with a base: `prefix` and `suffix` bytes, and what is between."""

    prefix: int
    suffix: int
    middle: bytes

    def apply(self, base: bytes) -> bytes:
        """Raises ValueError where `base` is too short to be the base of this."""
        if self.prefix + self.suffix > len(base):
            raise ValueError("the base is shorter than what is taken of it")
        return base[: self.prefix] + self.middle + base[len(base) - self.suffix :]


def delta(base: bytes, text: bytes) -> Delta:
    """`text` against `base`; `delta(b"", text)` is the whole of it."""
    prefix = common_prefix(base, text)
    most = min(len(base), len(text)) - prefix
    suffix = common_prefix(base[: -most - 1 : -1], text[: -most - 1 : -1]) if most else 0
    return Delta(prefix, suffix, text[prefix : len(text) - suffix])


def common_prefix(one: bytes, other: bytes) -> int:
    """The bytes that both begin with, by halving: memory is compared at memory's speed."""
    if other.startswith(one) or one.startswith(other):
        return min(len(one), len(other))
    same, differ = 0, min(len(one), len(other))
    while differ - same > 1:
        middle = (same + differ) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            differ = middle
    return same


def pack_ids(ids: Sequence[int]) -> bytes:
    """int32, little-endian. Raises OverflowError for what is no token id."""
    try:
        return struct.pack(f"<{len(ids)}i", *ids)  # in a quarter of the time of an array
    except struct.error as error:
        raise OverflowError(str(error)) from None


def unpack_ids(packed: bytes) -> list[int]:
    numbers = array("i")
    numbers.frombytes(packed)
    return _little(numbers).tolist()


def pack_logprobs(values: Sequence[float | None]) -> bytes:
    """float32, little-endian; None becomes NaN, which no engine can send in JSON.

    What float32 would change stands in the part's `extra`, too (see parts.py).
    """
    try:
        return struct.pack(f"<{len(values)}f", *values)  # as they nearly always are
    except (struct.error, OverflowError):
        numbers = array("f", [math.nan if value is None else value for value in values])
        return _little(numbers).tobytes()


def fits_float32(values: list[float | None]) -> bool:
    """Whether none of them is changed by being packed."""
    packed = pack_logprobs(values)
    if list(struct.unpack(f"<{len(values)}f", packed)) == values:
        return True
    return None in values and unpack_logprobs(packed) == values


def unpack_logprobs(packed: bytes) -> list[float | None]:
    numbers = array("f")
    numbers.frombytes(packed)
    return [None if math.isnan(value) else value for value in _little(numbers)]


def _little(numbers: "array[N]") -> "array[N]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
