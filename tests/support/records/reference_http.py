"""RFC 9112 read in the plainest way, to hold a parser against: slow and strict."""

import re

import msgspec

Headers = list[tuple[bytes, bytes]]

_STATUS_LINE = re.compile(rb"HTTP/(0\.9|1\.[01]|2\.0) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n]*)?")  # an extension may say anything


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Headers
    body: bytes


def read_to_the_end(raw: bytes, *, head_only: bool) -> Answer | None:
    """The answer that begins `raw`, all that the connection brought; None: it is no answer.

    What follows a whole answer is not looked at. `head_only`: it answers HEAD.
    """
    try:
        version, status, headers, rest = _head(raw.lstrip(b"\r\n"))
        while status < 200:
            if not _persists(version, headers):
                raise ValueError("nothing follows on a connection that ends")
            version, status, headers, rest = _head(rest.lstrip(b"\r\n"))
        body = _body(headers, rest, is_empty=head_only or status in (204, 304))
        return Answer(status, headers, body)
    except ValueError:
        return None


def _persists(version: bytes, headers: Headers) -> bool:
    """Whether the connection goes on after this head (RFC 9112, 9.3), as llhttp decides it."""
    options = {
        option.strip().lower()
        for name, value in headers
        if name in (b"connection", b"proxy-connection")
        for option in value.split(b",")
    }
    return b"close" not in options and (version == b"1.1" or b"keep-alive" in options)


def _head(raw: bytes) -> tuple[bytes, int, Headers, bytes]:
    head, rest = _part(raw, b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    version, status = _match(_STATUS_LINE, first).groups()
    if status == b"101":
        raise ValueError("nobody asked for an upgrade")
    found = [_match(_LINE, line) for line in lines]
    return version, int(status), [(line[1].lower(), line[2]) for line in found], rest


def _body(headers: Headers, raw: bytes, *, is_empty: bool) -> bytes:
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    lengths = [value.strip() for name, value in headers if name == b"content-length"]
    if codings and (set(codings) != {b"chunked"} or lengths):
        raise ValueError("where the body ends is in doubt")
    if lengths and not re.fullmatch(rb"[0-9]{1,18}", b",".join(lengths)):
        raise ValueError("no length, or more than one")
    if is_empty:
        return b""
    if codings:
        return _chunks(raw)
    if lengths and len(raw) < int(lengths[0]):
        raise ValueError("it breaks off")
    return raw[: int(lengths[0])] if lengths else raw


def _chunks(raw: bytes) -> bytes:
    body = b""
    while True:
        line, raw = _part(raw, b"\r\n")
        size = int(_match(_SIZE, line)[1], 16)
        if size == 0:
            break
        if raw[size : size + 2] != b"\r\n":
            raise ValueError("a chunk of another size")
        body, raw = body + raw[:size], raw[size + 2 :]
    while True:
        line, raw = _part(raw, b"\r\n")
        if line == b"":
            return body
        _match(_LINE, line)


def _part(raw: bytes, end: bytes) -> tuple[bytes, bytes]:
    part, found, rest = raw.partition(end)
    if not found:
        raise ValueError("it breaks off")
    return part, rest


def _match(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"malformed: {text!r}")
    return found
