"""Headers of any content are read, or refused with 400."""

import base64
import contextlib
from collections.abc import Iterator, Mapping

import pytest
from gateway_plugins.uploads.errors import bad_header
from gateway_plugins.uploads.tus import fields, metadata
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import BadRequest

KEYS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1
)
PAIRS = st.dictionaries(KEYS, st.binary(max_size=40), max_size=6)


@contextlib.contextmanager
def refused_for(header: str) -> Iterator[None]:
    """Let pass that the block refuses a header, but no other error."""
    param: str | None = header
    try:
        yield
    except BadRequest as error:
        param = error.param
    assert param == header


@given(PAIRS, st.sampled_from([" ", ""]), st.sampled_from([",", ", "]))
def test_pairs_are_read_as_they_were_written(
    pairs: Mapping[str, bytes], blank: str, comma: str
) -> None:
    """A key without a value has its blank, as tuspy sends it, or has none."""
    written = comma.join(
        f"{key} {base64.b64encode(value).decode()}" if value else f"{key}{blank}"
        for key, value in pairs.items()
    )
    assert metadata.parse(written) == pairs


@given(st.text(max_size=100))
@example("")
@example(" ")
@example("a,")
@example("a b c")
@example("a YQ")
@example("model_name")
def test_any_text_is_read_or_refused(text: str) -> None:
    with refused_for("Upload-Metadata"):
        metadata.wanted(metadata.parse(text))


@pytest.mark.parametrize(
    "text", ["a YQ==,a YQ==", ",", "a YQ", "a Y=Q=", "a YQ==YQ==", "ä YQ==", "a YQ= ="]
)
def test_wrong_pairs_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        metadata.parse(text)


def test_too_long_header_is_refused() -> None:
    with pytest.raises(BadRequest):
        metadata.parse("a " + "A" * metadata.MAX_HEADER)


@given(st.text(max_size=30))
@example("9" * 19)
@example("٣")
@example("1_0")
@example("+1")
def test_numbers_are_decimal_digits_or_refused(text: str) -> None:
    try:
        found = fields.number("Upload-Length", text)
    except BadRequest:
        return
    assert found is not None
    assert text.strip().isascii()
    assert text.strip().isdecimal()
    assert 0 <= found < 10**18


IDS = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), min_size=1, unique=True)


@given(IDS, st.sampled_from(["", "/upload/", "upload/", "https://h:1/a/upload/", "../"]))
def test_parts_are_named_by_any_kind_of_url(ids: list[str], prefix: str) -> None:
    text = "final;" + " ".join(f"{prefix}{one}?x=1" for one in ids)
    assert fields.parts_of(text) == ids


@given(st.text(max_size=60))
@example("final;http://[")
@example("final; ")
@example("Partial")
def test_any_concatenation_is_read_or_refused(text: str) -> None:
    with refused_for("Upload-Concat"):
        assert fields.parts_of(text) == [] or text.startswith("final;")


@given(st.text(max_size=60))
@example("sha1")
@example("sha1 ")
@example("crc32 AAAAAA==")
def test_any_checksum_is_read_or_refused(text: str) -> None:
    with refused_for("Upload-Checksum"):
        assert not fields.Expected(text).is_right() or text.startswith("crc32")


def test_refusals_name_their_header() -> None:
    assert bad_header("Upload-Length", "no").param == "Upload-Length"
