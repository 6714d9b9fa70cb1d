"""The native kernel reads whole HTTP messages as llhttp does, or leaves them."""

from collections.abc import Callable

import pytest
from support.callers.read_by_llhttp import LIMITS, request_by_llhttp, response_by_llhttp
from support.gateways.two_kernels import kernels

from gateway.kernel import is_built
from gateway.kernel.interface import Functions, ReadRequest, ReadResponse
from gateway.upstream.response import HOP_BY_HOP

pytestmark = pytest.mark.skipif(not is_built(), reason="there is no native kernel")

POST = b"POST /v1/a?b=c HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\ncontent-length: 5\r\n\r\nhello"


def native() -> Functions:
    return kernels()[0].functions


def read_request(data: bytes) -> ReadRequest | None:
    """What the native kernel reads, compared with llhttp's."""
    found = native().read_request(data, LIMITS.max_header_bytes)
    assert found is None or found == request_by_llhttp(data)
    return found


def read_response(data: bytes) -> ReadResponse | None:
    found = native().read_response(data, LIMITS.max_header_bytes, LIMITS.max_headers)
    assert found is None or found == response_by_llhttp(data)
    return found


def test_request_is_read() -> None:
    lines = [(b"host", b"x"), (b"content-length", b"5")]
    assert read_request(POST) == (("POST", "/v1/a", b"b=c"), lines, b"hello")
    assert read_request(b"GET / HTTP/1.1\r\n\r\n") == (("GET", "/", b""), [], b"")
    assert read_request(b"GET /? HTTP/1.1\r\nA:b\r\n\r\n") == (
        ("GET", "/", b""),
        [(b"a", b"b")],
        b"",
    )


def test_response_is_read() -> None:
    lines = [(b"content-type", b"a"), (b"content-length", b"5")]
    assert read_response(OK) == (200, lines, b"hello")


@pytest.mark.parametrize(
    "line",
    [
        *(b"transfer-encoding: chunked", b"upgrade: h2c", b"expect: 100-continue"),
        *(b"connection: close", b"connection: x-a", b"Connection: keep-alive, x-a"),
        *(b"proxy-connection: keep-alive", b"content-length: 5", b"Content-Length: 6"),
        *(b"x-empty:", b"x: a ", b"x : a", b" folded", b"x: a\nb: c", b"x: a\0", b"x", b": a"),
    ],
)
def test_message_with_an_unusual_line_is_left(line: bytes) -> None:
    assert read_request(POST.replace(b"Host: x", line)) is None
    assert read_response(OK.replace(b"Content-Type: a", line)) is None


@pytest.mark.parametrize(
    "data",
    [
        *(POST + b"G", POST[:-1], POST[:-5], POST[:-6], b"", b"POST", POST.replace(b"\r\n", b"\n")),
        *(
            POST.replace(b"POST", b"PUT"),
            POST.replace(b"1.1", b"1.0"),
            POST.replace(b"/v1", b"a/v1"),
        ),
        *(POST.replace(b"/v1/a", b"/v1/#"), POST.replace(b"/v1", b"a/v1")),
        *(POST.replace(b"x", b"\x7f"), POST.replace(b" HTTP", b"  HTTP")),
        *(POST.replace(b": 5", b": +5"), POST.replace(b": 5", b": 5000000000000000")),
        *(POST.replace(b"content-length: 5\r\n", b""), b"\r\n" + POST),
    ],
)
def test_unusual_request_is_left(data: bytes) -> None:
    assert read_request(data) is None


@pytest.mark.parametrize(
    "first", [b"204 No", b"304 No", b"100 No", b"101 No", b"99 No", b"600 No", b"200", b"2000 No"]
)
def test_unusual_response_is_left(first: bytes) -> None:
    assert read_response(OK.replace(b"200 OK", first)) is None
    assert read_response(OK.replace(b"content-length: 5\r\n", b"")) is None


@pytest.mark.parametrize("place", [b"/v1/a", b"b=c", b"Host", b": x", b"hello"])
def test_each_byte_of_a_request_is_read_as_llhttp_reads_it(place: bytes) -> None:
    taken = [read_request(POST.replace(place, place + bytes([one]) + b"y")) for one in range(256)]
    assert taken.count(None) < 256 or place == b"hello"  # whose length would be another


@pytest.mark.parametrize("place", [b"OK", b"Type", b": a"])
def test_each_byte_of_a_response_is_read_as_llhttp_reads_it(place: bytes) -> None:
    taken = [read_response(OK.replace(place, place + bytes([one]) + b"y")) for one in range(256)]
    assert taken.count(None) < 200


def test_name_of_one_letter_changes_no_other_bytes() -> None:
    """Python has one object for all bytes of one letter."""
    letter = bytes([ord("Q")])
    answer = b"HTTP/1.1 200 OK\r\nQ: 1\r\ncontent-length: 0\r\n\r\n"
    found = native().read_response(answer, 1 << 16, 9)
    assert found is not None
    assert found[1][0] == (b"q", b"1")
    assert letter[0] == ord("Q")


def test_message_over_a_limit_is_left() -> None:
    head = len(POST) - 5
    assert native().read_request(POST, head) is not None
    assert native().read_request(POST, head - 1) is None
    assert native().read_response(OK, len(OK) - 5, 2) is not None
    assert native().read_response(OK, len(OK) - 6, 2) is None
    assert native().read_response(OK, len(OK), 1) is None


@pytest.mark.parametrize("value", [b"close", b"keep-alive", b"Keep-Alive"])
def test_lines_are_joined_but_for_the_dropped(value: bytes) -> None:
    lines = [(b"a", b"1"), (b"connection", value), (b"b", b"")]
    assert native().join_lines(b"<", lines, HOP_BY_HOP, b">") == b"<a: 1\r\nb: \r\n>"


@pytest.mark.parametrize(
    "lines",
    [
        *([(b"connection", b"x-a")], [(b"a", bytearray(b"b"))], [(b"a",)], [[b"a", b"b"]], ()),
        *([(b"a", "b")], [(b"a", b"b")] * 129),
    ],
)
def test_unusual_lines_are_left(lines: object) -> None:
    assert native().join_lines(b"", lines, HOP_BY_HOP, b"") is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: native().read_request(b""),  # type: ignore[call-arg]
        lambda: native().read_request(POST, "a"),  # type: ignore[arg-type]
        lambda: native().read_response(OK, 1 << 80, 2),
        lambda: native().join_lines(b"", [(b"a", b"b")], [], b""),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_raise(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, OverflowError, SystemError)):
        call()
