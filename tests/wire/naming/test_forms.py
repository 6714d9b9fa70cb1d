"""The model of a form, as whoever writes forms puts it there."""

import random
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.naming.forms import form_model, is_form, query_model, query_models

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
files = st.binary(max_size=300)


def multipart(*parts: bytes) -> bytes:
    return b"".join(b"--B\r\n%b\r\n" % part for part in parts) + b"--B--\r\n"


def part(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="%b"%b\r\n\r\n%b' % (name, more, value)


KIND = b"multipart/form-data; boundary=B"
EXTENDED = b"Content-Disposition: form-data; name*=UTF-8''model\r\n\r\ngpt"
WHISPER = part(b"model", b"whisper")
SOUND = part(b"file", b"RIFF\0\xff\r\n--\r\n\r\n", b'; filename="a.wav"\r\nContent-Type: audio/wav')


@given(names, files, st.booleans())
def test_form_model_is_found_in_what_httpx_writes(model: str, file: bytes, last: bool) -> None:
    fields: dict[str, Any] = {
        "language": (None, "de"),
        "file": ("ü.wav", file),
        "model": (None, model),
    }
    order = fields if last else dict(reversed(fields.items()))
    request = httpx.Request("POST", "http://h", files=order)
    kind = request.headers["content-type"].encode()
    body = request.read()
    assert form_model(body, kind) == model
    cut = random.Random(len(body)).randrange(len(body))
    assert form_model(body[:cut], kind, whole=False) in (None, model)


@pytest.mark.parametrize(
    ("body", "kind", "model"),
    [
        (multipart(SOUND, WHISPER), KIND, "whisper"),
        (multipart(WHISPER, SOUND), b'Multipart/Form-Data; charset=x; boundary="B"', "whisper"),
        (multipart(b"content-type: text/plain\r\n" + WHISPER), KIND, "whisper"),
        (multipart(WHISPER, WHISPER), KIND, "whisper"),
        (multipart(WHISPER, part(b"model", b"gpt")), KIND, None),
        (multipart(part(b"model", b"")), KIND, None),
        (multipart(part(b"model", b"x" * 1001)), KIND, None),
        (multipart(part(b"model", b"\xff")), KIND, None),
        (multipart(WHISPER, part(b"mo\\del", b"gpt")), KIND, None),
        (
            multipart(WHISPER, b"Content-Disposition: form-data; name*=UTF-8''model\r\n\r\ngpt"),
            KIND,
            None,
        ),
        (multipart(WHISPER, b"A: b\r\n\r\nno name"), KIND, None),
        (multipart(WHISPER).replace(b"--B--", b"--B \r\n" + part(b"model", b"gpt")), KIND, None),
        (b"preamble\r\n" + multipart(WHISPER), KIND, None),
        (multipart(WHISPER)[:-7], KIND, None),
        (multipart(WHISPER), b"multipart/form-data", None),
        (multipart(SOUND), KIND, None),
        (b"\r\n\r\n" + multipart(SOUND, WHISPER), KIND, "whisper"),
        (multipart(WHISPER), KIND + b"; boundary=C", None),
        (multipart(WHISPER), KIND + b"; Boundary*0=C", None),
        (multipart(part(b"x", b"")[:-2], WHISPER), KIND, None),
        (b"a=b&model=llama+3%3A8b", b"application/x-www-form-urlencoded", "llama 3:8b"),
        (b"model=a&model=b", b"application/x-www-form-urlencoded", None),
        (b"mod%65l=a", b"application/x-www-form-urlencoded; charset=utf-8", "a"),
        (b"model=%ff", b"application/x-www-form-urlencoded", None),
    ],
)
def test_form_names_a_model_only_if_all_readers_would_find_the_same(
    body: bytes, kind: bytes, model: str | None
) -> None:
    assert form_model(body, kind) == model


@given(st.binary(max_size=200), st.sampled_from([KIND, b"application/x-www-form-urlencoded", b""]))
def test_form_model_takes_any_bytes(body: bytes, kind: bytes) -> None:
    for whole in (True, False):
        assert form_model(body, kind, whole=whole) != ""
        assert form_model(b"--B\r\n" + body, kind, whole=whole) != ""
    assert query_model(body) != ""


@given(names, names)
def test_query_model_is_found_in_any_query(model: str, other: str) -> None:
    query = urlencode({other: "x", "model": model}).encode()
    assert query_model(query) == model
    both = f"model={quote(model)}&model={quote(other)}".encode()
    assert query_models(both) == {model, other}


def test_only_the_types_of_forms_are_forms() -> None:
    assert is_form(b"multipart/form-data;boundary=B")
    assert is_form(b"Application/X-WWW-Form-URLencoded")
    assert not any(map(is_form, (b"", b"application/json", b"multipart/mixed")))
