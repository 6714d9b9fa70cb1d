"""Lines of an input file: the same however the file comes, with one line in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_plugins.batch.batches.input import lines
from gateway_plugins.batch.batches.input.lines import BOM, Line, split
from hypothesis import given
from hypothesis import strategies as st

MOST = 8

TEXTS = st.lists(
    st.sampled_from([b"a", b"bb", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\n\n", BOM, b"x" * 12]),
    max_size=20,
).map(b"".join)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A text, and the same in chunks."""
    text = draw(TEXTS)
    ends = draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    starts = [0, *ends]
    return text, [text[a:b] for a, b in zip(starts, [*ends, len(text)], strict=True)]


def expected(text: bytes) -> Iterator[Line]:
    """The lines, as one reads them who has the whole text."""
    parts = text.split(b"\n")
    for number, part in enumerate(parts, 1):
        line = part.removeprefix(BOM) if number == 1 else part
        line = line.removesuffix(b"\r")
        if line.strip(b" \t\r"):
            kept = line if len(line) <= MOST else None
            yield Line(number, kept, number < len(parts))


@given(chunked())
def test_lines_are_the_same_in_any_chunks(given_: tuple[bytes, list[bytes]]) -> None:
    text, chunks = given_
    assert list(split(chunks, MOST)) == list(expected(text))


def test_byte_order_mark_and_line_ends_of_windows_belong_to_no_line() -> None:
    assert list(split([BOM + b"{1}\r\n\r\n{2}\r\n"], 100)) == [Line(1, b"{1}"), Line(3, b"{2}")]


def test_last_line_without_line_end_is_told() -> None:
    assert list(split([b"a\nb"], 100)) == [Line(1, b"a"), Line(2, b"b", is_ended=False)]


def test_line_that_is_too_long_is_not_kept_while_it_comes() -> None:
    """A line of 1 GB, in chunks that are all the same object: nothing but the limit is kept."""
    chunk = b"x" * (1 << 20)
    read = 0

    def chunks() -> Iterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += len(chunk)
            yield chunk
        yield b"\nshort\n"

    assert list(split(chunks(), 3 << 20)) == [Line(1, None), Line(2, b"short")]
    assert read == 1_000 << 20


@pytest.mark.parametrize(("text", "count"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3)])
def test_lines_are_counted(tmp_path: Path, text: bytes, count: int) -> None:
    (tmp_path / "file").write_bytes(text)
    assert lines.count(tmp_path / "file") == count


def test_lines_are_counted_across_reads(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345\n" * 50_000)
    assert lines.count(tmp_path / "file") == 50_000
