"""The targets of HTTP: heads that are read and written, beside llhttp and Python."""

import re
from collections.abc import Sequence
from random import Random

from support.callers.read_by_llhttp import LIMITS, request_by_llhttp, response_by_llhttp

from fuzz.target import Differs
from gateway.kernel.interface import Functions
from gateway.upstream.response import HOP_BY_HOP, without

PLAIN = (
    *(b"host: a", b"Authorization: Bearer x y", b"accept: */*", b"user-agent: a/1 (b; c)"),
    *(b"connection: keep-alive", b"Connection: Keep-Alive", b"te: trailers", b"Content-Type: a/b"),
)
LINES = (
    *(b"X-Empty:", b"x-space: a ", b"connection: close", b"Connection: keep-alive, x-a"),
    *(b"connection: x-a", b"transfer-encoding: chunked", b"upgrade: h2c", b"x-tab:\ta\tb"),
    *(b"Expect: 100-continue", b"proxy-connection: close", b"content-length: 5", b"x-high: \xe9"),
    *(b"content-length: 05", b"Content-Length: 0", b"content-length: -5", b"x-a : b", b" folded"),
)
BODIES = (b"", b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n")
TARGETS = (b"/", b"/v1/chat/completions", b"/v1/a?b=c&d", b"/a%20b?", b"*", b"/#a", b"http://a/b")
STARTS = tuple(b"%b %b HTTP/1.1" % (m, t) for m in (b"POST", b"GET") for t in TARGETS)
STATUSES = (
    b"200 OK",
    b"404 Not Found",
    b"204 No Content",
    b"100 Continue",
    b"500 ",
    b"304",
    b"99 X",
)


def _messages(starts: Sequence[bytes]) -> list[bytes]:
    """Each start with some lines, so that damage brings all sorts together."""
    random = Random(1)
    found = []
    for start in starts:
        for _ in range(12):
            body = random.choice(BODIES)
            told = [b"content-length: %d" % len(body)] * random.choice((0, *[1] * 9))
            unusual = random.sample(LINES, random.choice((0, 0, 0, 0, 1, 2)))
            lines = [start, *random.sample(PLAIN, random.randrange(4)), *unusual, *told]
            found.append(b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body)
    return found


def _mended(given: bytes, random: Random) -> bytes:
    """Mostly give a damaged message the length that it has: others are left for that alone."""
    if not random.randrange(4):
        return given
    body = given.partition(b"\r\n\r\n")[2]
    return re.sub(rb"(?i)(\ncontent-length: )\d+", rb"\g<1>%d" % len(body), given, count=1)


class WholeRequests:
    """Requests in one read."""

    name = "http-requests"

    def seeds(self) -> Sequence[bytes]:
        return _messages(STARTS)

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        given = _mended(given, random)
        found = native.read_request(given, random.choice((LIMITS.max_header_bytes, 100)))
        if found is not None and found != (wanted := request_by_llhttp(given)):
            raise Differs(f"{found!r} is not {wanted!r}")
        return found is not None


class WholeResponses:
    """Responses in one read."""

    name = "http-responses"

    def seeds(self) -> Sequence[bytes]:
        return _messages([b"HTTP/1.1 " + status for status in STATUSES])

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        given, lines = _mended(given, random), random.choice((LIMITS.max_headers, 2))
        found = native.read_response(given, LIMITS.max_header_bytes, lines)
        if found is not None and found != (wanted := response_by_llhttp(given)):
            raise Differs(f"{found!r} is not {wanted!r}")
        return found is not None


class Heads:
    """Heads that are written of lines."""

    name = "http-heads"

    def seeds(self) -> Sequence[bytes]:
        return _messages(STARTS)

    def compare(self, native: Functions, given: bytes, random: Random) -> bool:
        parts = [line.partition(b": ") for line in given.split(b"\r\n")]
        lines = [(name, value) for name, _, value in parts]
        random.shuffle(lines)
        found = native.join_lines(given[:3], lines, HOP_BY_HOP, given[:2])
        kept = b"".join(b"%b: %b\r\n" % line for line in without(lines, HOP_BY_HOP))
        if found is not None and found != given[:3] + kept + given[:2]:
            raise Differs(f"{found!r} is not {kept!r}")
        return found is not None
