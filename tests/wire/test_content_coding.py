"""A compressed response is decoded whatever its pieces, and bounded."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocol
from gateway.wire.content_coding import decoder_of


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


Way = tuple[bytes, Callable[[bytes], bytes]]
WAYS: list[Way] = [
    (b"gzip", gzip.compress),
    (b"X-GZIP", members),
    (b"gzip", lambda data: gzip.compress(data) + b"\0" * 9),
    (b"deflate", zlib.compress),
    (b" Deflate", bare),
]


def decoded(coding: bytes, data: bytes, size: int, most: int = 1 << 20) -> bytes:
    decoder = decoder_of(coding, most)
    assert decoder is not None
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    found = b"".join(map(decoder.feed, pieces))
    decoder.close()
    return found


@given(st.binary(), st.sampled_from(WAYS), st.integers(1, 40))
def test_decoder_restores_what_was_compressed(data: bytes, way: Way, size: int) -> None:
    coding, compress = way

    assert decoded(coding, compress(data), size) == data


@pytest.mark.parametrize(("coding", "window"), [(b"gzip", 31), (b"deflate", 15), (b"deflate", -15)])
def test_decoder_gives_each_event_as_it_comes(coding: bytes, window: int) -> None:
    packer = zlib.compressobj(wbits=window)
    decoder = decoder_of(coding, 1000)
    assert decoder is not None

    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        assert decoder.feed(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)) == event


@pytest.mark.parametrize(("coding", "compress"), WAYS)
def test_decoder_stops_at_what_becomes_too_large(
    coding: bytes, compress: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(UpstreamProtocol, match="too large"):
        decoded(coding, compress(b"a" * 100_000), 100_000, most=99_999)


@pytest.mark.parametrize("data", [b'{"a":1}', b"\x1f\x8b", b"\x1f", b"data: 1\n\n" * 99])
@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
@pytest.mark.parametrize("size", [1, 1000])
def test_decoder_rejects_another_form(coding: bytes, data: bytes, size: int) -> None:
    with pytest.raises(UpstreamProtocol):
        decoded(coding, data, size)


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"compress", b"gzip, gzip", b"", b"x"])
def test_other_codings_have_no_decoder(coding: bytes) -> None:
    assert decoder_of(coding, 1) is None
