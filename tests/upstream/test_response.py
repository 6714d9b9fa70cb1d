from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records.worker_answers import Answer, Headers, answers, cut, places

from gateway.errors import UpstreamProtocol
from gateway.upstream.response import HOP_BY_HOP, ResponseParser, without


class Read(msgspec.Struct, frozen=True):
    status: int
    headers: Headers
    body: bytes
    complete: bool
    until_close: bool
    reusable: bool


def new_parser(max_header_bytes: int = 65536, max_headers: int = 256) -> ResponseParser:
    return ResponseParser(max_header_bytes, max_headers)


def read(parser: ResponseParser, pieces: Iterable[bytes], *, head_only: bool = False) -> Read:
    parser.begin(head_only=head_only)
    body = b"".join([parser.feed(piece) for piece in pieces])
    return Read(
        parser.status, parser.headers, body, parser.complete, parser.until_close, parser.reusable
    )


def expected(answer: Answer) -> Read:
    to_the_end = answer.framing == "close"
    return Read(
        answer.status, answer.headers, answer.body, not to_the_end, to_the_end, answer.keeps
    )


def refusal(*pieces: bytes, parser: ResponseParser | None = None) -> str:
    with pytest.raises(UpstreamProtocol) as caught:
        read(parser or new_parser(), pieces)
    return caught.value.message


def plain(lines: bytes = b"", body: bytes = b"hello") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), lines, body)


@given(answers(), places)
def test_response_parser_result_does_not_depend_on_the_splits(
    answer: Answer, at: list[int]
) -> None:
    for pieces in ([answer.raw], cut(answer.raw, at), cut(answer.raw, range(len(answer.raw)))):
        assert read(new_parser(), pieces, head_only=answer.head_only) == expected(answer)


@given(st.lists(st.tuples(answers(), places), min_size=2, max_size=4))
def test_response_parser_keeps_nothing_of_the_previous_response(
    series: list[tuple[Answer, list[int]]],
) -> None:
    parser = new_parser()
    for answer, at in series:
        pieces = cut(answer.raw, at)
        assert read(parser, pieces, head_only=answer.head_only) == expected(answer)


def test_response_parser_drops_trailers_before_the_next_response() -> None:
    parser = new_parser()
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"
    )

    first, second = read(parser, [chunked]), read(parser, [plain()])

    assert first.reusable
    assert first.headers == [(b"transfer-encoding", b"chunked")]
    assert second.headers == [(b"content-length", b"5")]


@given(
    answers(framings=("length", "chunked", "none"), keeps=True),
    st.binary(min_size=1, max_size=30).filter(lambda extra: extra.strip(b"\r\n")),
    st.booleans(),
)
def test_response_parser_forbids_reuse_after_excess_bytes(
    answer: Answer, extra: bytes, at_once: bool
) -> None:
    parser = new_parser()
    pieces = [answer.raw + extra] if at_once else [answer.raw, extra]

    found = read(parser, pieces, head_only=answer.head_only)

    assert found.complete
    assert found.body == answer.body
    assert not found.reusable


@given(answers(framings=("length", "chunked", "none")), st.data())
def test_response_parser_reports_a_truncated_response_as_incomplete(
    answer: Answer, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(answer.raw) - 1))
    found = read(new_parser(), [answer.raw[:place]], head_only=answer.head_only)
    assert not found.complete
    assert not found.until_close


def test_response_parser_ignores_a_body_after_head() -> None:
    found = read(new_parser(), [plain(), b"more"], head_only=True)
    assert (found.complete, found.body, found.reusable) == (True, b"", False)


@pytest.mark.parametrize("status", [204, 304])
def test_response_parser_ignores_a_body_after_204_or_304(status: int) -> None:
    raw = b"HTTP/1.1 %d\r\ncontent-length: 5\r\n\r\nhello" % status
    found = read(new_parser(), [raw])
    assert (found.complete, found.body, found.reusable) == (True, b"", False)


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 5\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5, 5",
        b"content-length: -5",
        b"content-length: +5",
        b"content-length: 0x5",
        b"content-length: 5 5",
        b"content-length:",
        b"content-length: 99999999999999999999",
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked\r\ncontent-length: 5",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: gzip\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked, chunked",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity",
        b"transfer-encoding: xchunked",
        b"transfer-encoding: gzip",
        b"transfer-encoding:",
    ],
)
def test_response_parser_rejects_ambiguous_framing(framing: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % framing
    refusal(raw)
    refusal(*cut(raw, range(len(raw))))


@pytest.mark.parametrize(
    "chunk",
    [
        *(b"g\r\na\r\n", b"-1\r\na\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n"),
        *(b"1 \r\na\r\n", b"1\na\n", b"1\r\nab\r\n", b"\r\n", b";x\r\n", b"f" * 17 + b"\r\n"),
        *(b"2\r\na\r\n0\r\n\r\n", b"0\r\nno trailer\r\n\r\n", b"0\r\n\x00: a\r\n\r\n"),
    ],
)
def test_response_parser_rejects_a_malformed_chunk(chunk: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    refusal(head + chunk)
    refusal(head, *cut(chunk, range(len(chunk))))


@pytest.mark.parametrize(
    "line",
    [
        *(b"x: a\rb", b"x: a\nb", b"x: a\x00b", b"x: a\x7fb", b"x: a\x01b", b"x : a", b" x: a"),
        *(b": a", b"x", b"x: a\r\n folded", b"x\xe9: a", b"x(y): a"),
    ],
)
def test_response_parser_rejects_a_malformed_header_line(line: bytes) -> None:
    refusal(plain(line + b"\r\n"))


@pytest.mark.parametrize(
    "start",
    [
        *(b"HTTP/1.1 099 X", b"HTTP/1.1 600 X", b"HTTP/1.1 2000 X", b"HTTP/1.1 20 X"),
        *(b"HTTP/3.0 200 OK", b"HTTP/1.1200 OK", b"http/1.1 200 OK", b"ICY 200 OK", b"200 OK"),
        *(b"GET / HTTP/1.1", b"<html>", b"\x16\x03\x01\x02", b"\x00"),
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket",
    ],
)
def test_response_parser_rejects_a_malformed_status_line(start: bytes) -> None:
    refusal(start + b"\r\ncontent-length: 0\r\n\r\n")


def test_response_parser_ignores_an_offered_upgrade() -> None:
    found = read(new_parser(), [plain(b"connection: upgrade\r\nupgrade: h2c\r\n")])
    assert (found.complete, found.body) == (True, b"hello")


def test_response_parser_keeps_an_http_1_0_connection_only_on_keep_alive() -> None:
    old = plain().replace(b"HTTP/1.1", b"HTTP/1.0")
    kept = plain(b"connection: keep-alive\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert not read(new_parser(), [old]).reusable
    assert read(new_parser(), [kept]).reusable


LARGE = plain(b"x: %b\r\n" % (b"a" * 900))


@pytest.mark.parametrize("step", [1, 7, 500, len(LARGE)])
def test_response_parser_accepts_a_header_below_the_limit_in_any_pieces(step: int) -> None:
    pieces = cut(LARGE, range(0, len(LARGE), step))
    assert read(new_parser(1000), pieces).body == b"hello"


@pytest.mark.parametrize("step", [1, 7, 500, len(LARGE)])
def test_response_parser_rejects_a_too_large_header_in_any_pieces(step: int) -> None:
    pieces = cut(LARGE, range(0, len(LARGE), step))
    assert "limits.max_header_bytes" in refusal(*pieces, parser=new_parser(900))


def test_response_parser_rejects_an_endless_header_early() -> None:
    endless = iter([b"HTTP/1.1 200 OK\r\nx: ", *([b"a" * 100] * 100)])
    with pytest.raises(UpstreamProtocol, match=r"limits\.max_header_bytes"):
        read(new_parser(1000), endless)
    assert len(list(endless)) > 88


def test_response_parser_rejects_endless_interim_responses() -> None:
    endless = [b"HTTP/1.1 100 Continue\r\n\r\n"] * 1000
    assert "limits.max_header_bytes" in refusal(*endless, parser=new_parser(1000))


def test_response_parser_rejects_an_endless_trailer() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: "
    endless = [head, *([b"a" * 100] * 100)]
    assert "limits.max_header_bytes" in refusal(*endless, parser=new_parser(1000))


def test_response_parser_does_not_count_chunk_framing_as_trailer() -> None:
    raw = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % (
        b"1\r\na\r\n" * 500
    )
    assert read(new_parser(1000), cut(raw, range(len(raw)))).body == b"a" * 500


def test_response_parser_does_not_count_the_body_as_header() -> None:
    raw = plain(body=b"a" * 5000)
    assert read(new_parser(1000), [raw]).body == b"a" * 5000


@pytest.mark.parametrize("split", [False, True])
def test_response_parser_limits_the_number_of_header_lines(split: bool) -> None:
    fits, exceeds = (plain(b"x: y\r\n" * count) for count in (9, 10))
    pieces = [cut(raw, range(len(raw)) if split else ()) for raw in (fits, exceeds)]
    assert len(read(new_parser(max_headers=10), pieces[0]).headers) == 10
    assert "limits.max_headers" in refusal(*pieces[1], parser=new_parser(max_headers=10))


def test_response_parser_keeps_nothing_of_a_rejected_response() -> None:
    parser = new_parser()
    refusal(b"HTTP/1.1 200 OK\r\nx-old: a\r\ncontent-length: x\r\n\r\n", parser=parser)
    assert read(parser, [plain()]).headers == [(b"content-length", b"5")]


def test_without_removes_hop_by_hop_headers() -> None:
    mine = [(b"x-a", b"1"), (b"x-b", b"2"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]
    hop_by_hop = [(name, b"x") for name in sorted(HOP_BY_HOP - {b"connection"})]
    assert without([*hop_by_hop, *mine, (b"connection", b"close")], HOP_BY_HOP) == mine


@pytest.mark.parametrize(
    "lines",
    [
        [b"x-a"],
        [b"X-A"],
        [b"close, x-a"],
        [b" x-a\t,keep-alive"],
        [b"close", b"x-a"],
        [b"keep-alive", b"close", b"x-a"],
    ],
)
def test_without_removes_headers_named_by_connection(lines: list[bytes]) -> None:
    headers = [(b"x-a", b"1"), (b"x-ab", b"2"), *((b"connection", line) for line in lines)]
    assert without(headers, HOP_BY_HOP) == [(b"x-ab", b"2")]


def test_response_parser_of_a_kept_connection_holds_nothing_of_a_whole_response() -> None:
    parser = new_parser()
    parser.begin(head_only=False)
    parser.feed(plain(body=b"secret"))
    assert parser.complete
    assert parser.pieces == []
