"""Bytes that come back as they went in, whatever their base."""

import contextlib
import math

import pytest
import zstandard
from gateway_plugins.trace_capture.codec import (
    LARGE,
    SMALL,
    Codec,
    common_prefix,
    pack_ids,
    pack_logprobs,
    text_delta,
    unpack_ids,
    unpack_logprobs,
)
from hypothesis import given
from hypothesis import strategies as st

pieces = st.lists(st.binary(max_size=6), max_size=8).map(b"".join)


@given(pieces, pieces, pieces, pieces)
def test_delta_restores_a_text_from_its_base(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    for base, text in ((a + b + c, a + d + c), (a, d), (a + c, a), (b"", d), (d, d)):
        found = text_delta(base, text)
        assert found.apply(base) == text
        assert len(found.middle) == len(text) - found.prefix - found.suffix


def test_delta_keeps_no_shared_prefix_or_suffix() -> None:
    base = b'{"messages":[' + b"x" * 1000 + b'],"model":"m"}'
    found = text_delta(base, base.replace(b'],"model"', b',"more"],"model"'))
    assert (found.prefix, found.suffix, found.middle) == (1013, 14, b',"more"')


def test_delta_rejects_a_base_that_is_too_short() -> None:
    found = text_delta(b"abcdef", b"abcdefg")
    with pytest.raises(ValueError, match="base is shorter"):
        found.apply(b"abc")


@given(pieces, pieces, pieces)
def test_common_prefix_is_the_longest_one(shared: bytes, one: bytes, other: bytes) -> None:
    found = common_prefix(shared + one, shared + other)
    assert (shared + one)[:found] == (shared + other)[:found]
    assert found >= len(shared)
    longer = found + 1
    whole = found == min(len(shared + one), len(shared + other))
    assert whole or (shared + one)[:longer] != (shared + other)[:longer]


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_pack_ids_round_trips(ids: list[int]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids


def test_pack_ids_rejects_an_id_beyond_32_bits() -> None:
    with pytest.raises(OverflowError):
        pack_ids([2**31])


@given(st.lists(st.none() | st.floats(width=32, allow_nan=False)))
def test_pack_logprobs_round_trips_with_nulls(values: list[float | None]) -> None:
    packed = pack_logprobs(values)
    assert unpack_logprobs(packed) == values
    assert len(packed) == 4 * len(values)


def test_pack_logprobs_keeps_minus_infinity() -> None:
    assert unpack_logprobs(pack_logprobs([-9999.0, -math.inf])) == [-9999.0, -math.inf]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_codec_decompresses_what_it_compressed(data: bytes, times: int) -> None:
    codec = Codec()
    assert codec.decompress(codec.compress(data * times)) == data * times
    assert len(codec.compress(data * times)) <= len(data * times) + 1


@given(st.binary(min_size=1, max_size=50))
def test_codec_raises_only_value_error_on_garbage(garbage: bytes) -> None:
    with contextlib.suppress(ValueError):
        Codec().decompress(garbage)


MESSAGE = b'{"model":"m","messages":[{"role":"user","content":"Hello"}],'
TEXT = (MESSAGE + b'"temperature":0.7,"stop":["a","b"]}') * 2
PLAIN = (b"\0" + TEXT).hex()
COMPRESSED = """
0128b52ffd20be9d0200f2451217a027e90fd07652da6eea97d8ef1ae8eb77c67e18aafa100931e1da5c6ce3122f012060
371d69520dd4bc88e43ba783ed2c9ac515ae53f1d8eeb934526cecc120165da3ed53c3a19101001f8b538802
"""
WITH_DICTIONARY = """
0228b52ffd20be9d0100634104291989494b72896424b5685a3229294d320bfc234680e6e614c4d32f64ce0427cb754d23
5a71d8908d3ccc2d25294f02
"""


@pytest.mark.parametrize("stored", [PLAIN, COMPRESSED, WITH_DICTIONARY])
def test_codec_decompresses_what_files_have(stored: str) -> None:
    """Each form that was ever written."""
    assert Codec().decompress(bytes.fromhex(stored)) == TEXT


def test_small_traces_take_less_space_with_the_dictionary() -> None:
    alone = zstandard.ZstdCompressor(level=3).compress(TEXT)
    assert len(Codec().compress(TEXT)) < 0.75 * len(alone)


@pytest.mark.parametrize("size", [0, 95, 96, SMALL - 1, SMALL, LARGE - 1, LARGE, 4 * LARGE])
def test_compress_round_trips_at_any_size(size: int) -> None:
    codec, data = Codec(), (b"%d " * size % tuple(range(size)))[:size]
    assert Codec().decompress(codec.compress(data)) == data
    assert codec.decompress(codec.compress(data)) == data
