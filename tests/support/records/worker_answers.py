"""Answers as workers may send them: their bytes, and what a reader must make of these."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

import msgspec
from hypothesis import strategies as st

Headers = list[tuple[bytes, bytes]]
Framing = Literal["length", "chunked", "close", "none"]

TCHAR = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VISIBLE = [*range(0x21, 0x7F), *range(0x80, 0x100)]  # RFC 9110, 5.5: VCHAR and obs-text
MEANINGFUL = {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"}


class Answer(msgspec.Struct, frozen=True):
    """One answer: `raw` as it is on the wire, and what it says, names in lower case.

    `framing` says where it ends; `none`: it has no body. `keeps`: another may follow it.
    """

    raw: bytes
    status: int
    headers: Headers
    body: bytes
    framing: Framing
    keeps: bool
    head_only: bool = False


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` in pieces, none of them empty."""
    inner = {place for place in places if 0 < place < len(data)}
    return [data[start:end] for start, end in pairwise([0, *sorted(inner), len(data)])]


places = st.lists(st.integers(0, 600), max_size=12)
names = st.text(TCHAR, min_size=1, max_size=12).filter(lambda name: name.lower() not in MEANINGFUL)
visible = st.lists(st.sampled_from(VISIBLE), min_size=1, max_size=6).map(bytes)
values = st.just(b"") | st.lists(visible, min_size=1, max_size=4).map(b" \t".join)
header_lines = st.lists(st.tuples(names.map(str.encode), values), max_size=8)
statuses = st.sampled_from([200, 200, 200, 201, 299, 301, 400, 404, 422, 429, 500, 503, 599])
interim = st.tuples(st.sampled_from([100, 102, 103]), header_lines)
optional_space = st.sampled_from([b"", b" ", b"\t", b"  "])


@st.composite
def answers(
    draw: st.DrawFn,
    *,
    framings: tuple[Framing, ...] = ("length", "chunked", "close", "none"),
    keeps: bool | None = None,
) -> Answer:
    """Any valid answer of HTTP/1.1, interim answers before it and trailers after it included."""
    before = draw(st.lists(interim, max_size=2))
    framing = draw(st.sampled_from(framings))
    keep = framing != "close" and (draw(st.booleans()) if keeps is None else keeps)
    body, coded = draw(_bodies(framing))
    status, head_only = draw(_bodiless) if framing == "none" else (draw(statuses), False)
    lines = list(draw(header_lines))
    for line in _meaningful(framing, len(body), keep=keep, announced=head_only or status == 304):
        lines.insert(draw(st.integers(0, len(lines))), line)
    raw = b"".join(draw(_head(code, extra)) for code, extra in before)
    raw += draw(_head(status, lines)) + coded
    headers = [(name.lower(), value) for name, value in lines]
    return Answer(raw, status, headers, body, framing, keep and not head_only, head_only)


_bodiless = st.sampled_from([(204, False), (304, False), (200, True), (404, True)])


def _meaningful(framing: Framing, length: int, *, keep: bool, announced: bool) -> Headers:
    lines = [] if keep else [(b"Connection", b"close")]
    if framing == "chunked":
        lines.append((b"Transfer-Encoding", b"chunked"))
    elif framing == "length":
        lines.append((b"Content-Length", b"%d" % length))
    elif framing == "none" and announced:
        lines.append((b"Content-Length", b"17"))
    return lines


@st.composite
def _head(draw: st.DrawFn, status: int, lines: Headers) -> bytes:
    reason = draw(st.sampled_from([b"", b" OK", b" Not So Good", b" \xe9t\xe9"]))
    space = draw(optional_space)
    text = [b"%b:%b%b\r\n" % (name, space, value) for name, value in lines]
    return b"HTTP/1.1 %d%b\r\n%b\r\n" % (status, reason, b"".join(text))


@st.composite
def _bodies(draw: st.DrawFn, framing: Framing) -> tuple[bytes, bytes]:
    """A body, and the same as `framing` writes it."""
    if framing == "none":
        return b"", b""
    if framing != "chunked":
        body = draw(st.binary(max_size=200))
        return body, body
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    size = draw(st.sampled_from([b"%x", b"%X", b"00%x"]))
    extension = draw(st.sampled_from([b"", b";a=b", b';a="b c"']))
    coded = [b"%b%b\r\n%b\r\n" % (size % len(chunk), extension, chunk) for chunk in chunks]
    trailers = [b"%b: %b\r\n" % line for line in draw(header_lines)]
    return b"".join(chunks), b"".join([*coded, b"0\r\n", *trailers, b"\r\n"])
