"""Forms, in chunks of any size."""

import contextlib
import itertools
from collections.abc import Sequence

import pytest
from gateway_plugins.batch.doors.files.form import MAX_PARTS, Form
from hypothesis import example, given
from hypothesis import strategies as st
from support.batch.files import BOUNDARY, END, FORM, PURPOSE, Part, file_part, form, written

from gateway import BadRequest

KIND = FORM[1].decode()
PIECES = (b"\r\n", b"--", b"\r", b"\n", b"-", BOUNDARY, b"\r\n--" + BOUNDARY[:-1], b"x", b"\0\xff")


def read(*chunks: bytes, kind: str = KIND) -> tuple[Form, bytes]:
    """A form that is fed these chunks, and the content of its file."""
    found = Form(kind, "file")
    content = b"".join([found.feed(chunk) for chunk in chunks])
    found.end()
    return found, content


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


contents = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
whole_contents = contents.filter(lambda content: b"\r\n--" + BOUNDARY not in b"\r\n" + content)
places = st.lists(st.integers(0, 10_000), max_size=20)


@given(whole_contents, places, st.booleans())
@example(b"\r\n--limi", [*range(200)], False)
def test_form_reads_the_same_in_all_chunkings(
    content: bytes, places: list[int], is_first: bool
) -> None:
    parts = (file_part(content), PURPOSE) if is_first else (PURPOSE, file_part(content))
    for body in (form(*parts), form(*parts).removesuffix(b"\r\n"), form(*parts) + b"rest\r\n"):
        found, read_content = read(*cut(body, places))
        assert read_content == content
        assert (found.fields, found.filename) == ({"purpose": "batch"}, "a.jsonl")


@given(places, st.integers(0, 10_000))
def test_form_that_is_cut_short_is_refused(places: list[int], length: int) -> None:
    body = form(PURPOSE, file_part(b"content")).removesuffix(b"--\r\n")
    with pytest.raises(BadRequest, match="the form ends before"):
        read(*cut(body[: length % (len(body) + 1)], places))


@given(
    st.lists(
        st.sampled_from((*PIECES, b": ", b"content-disposition", b'"', b"; name=")), max_size=30
    ),
    places,
)
def test_garbage_is_refused_or_read(pieces: list[bytes], places: list[int]) -> None:
    body = b"--" + BOUNDARY + b"\r\n" + b"".join(pieces)
    with contextlib.suppress(BadRequest):
        read(*cut(body, places))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "ends before"),
        (b"x", "not a valid form"),
        (END, "no part `file`"),
        (form(PURPOSE), "no part `file`"),
        (form(PURPOSE, PURPOSE), "several parts `purpose`"),
        (form(file_part(b"a"), file_part(b"b")), "several parts `file`"),
        (form((b"form-data", b"x")), "has no name"),
        (form((b'form-data; name="\xff"', b"x")), "not UTF-8"),
        (form((PURPOSE[0], b"\xff")), "not UTF-8"),
        (form((PURPOSE[0], b"x" * 1_001)), "longer than 1000"),
        (form((b'form-data; name="' + b"x" * 1_001 + b'"', b"x")), "longer than 1000"),
        (form(file_part(b"", filename=b"x" * 1_001)), "longer than 1000"),
        (form((b"form-data" + b" " * 20_000, b"x")), "header"),
        (form(*((b'form-data; name="f%d"' % n, b"x") for n in range(MAX_PARTS + 1))), "20 parts"),
        (
            form((PURPOSE[0] + b"\r\ncontent-transfer-encoding: base64", b"YmF0Y2g=")),
            "content-transfer-encoding",
        ),
    ],
)
def test_wrong_form_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(body)
    with pytest.raises(BadRequest, match=said):
        read(*(body[place : place + 1] for place in range(len(body))))


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
        "multipart/mixed; boundary=limit",
    ],
)
def test_body_of_another_type_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest, match="content-type"):
        Form(kind, "file")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="file"', "upload"),
        (b'form-data; name="file"; filename=""', "upload"),
        (b"form-data; name=file; filename=plain.txt", "plain.txt"),
        (b'form-data; filename="b.txt"; name="file"', "b.txt"),
        (b'Form-Data; NAME="file"; FileName="c.txt"', "c.txt"),
        (b'form-data; name="file"; filename="a\\"b\\\\c"', 'a"b\\c'),
        (b'form-data; name="file"; filename="a%22b%20c"', 'a"b%20c'),
        (b"form-data; name=\"file\"; filename*=UTF-8''%E2%82%AC.txt", "€.txt"),
        ('form-data; name="file"; filename="€.txt"'.encode(), "€.txt"),
    ],
)
def test_name_of_a_file_is_read_as_clients_write_it(disposition: bytes, name: str) -> None:
    part: Part = (disposition, b"content")
    found, content = read(written(part) + END)
    assert (found.filename, content) == (name, b"content")


def test_large_content_is_given_as_it_comes() -> None:
    """A form keeps nothing of its file, so its memory does not grow."""
    found = Form(KIND, "file")
    found.feed(written(file_part(b""))[:-2])
    piece = b"x" * 65_536
    assert sum(len(found.feed(piece)) for _ in range(100)) == 100 * len(piece)
