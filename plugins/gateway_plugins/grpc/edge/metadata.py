"""From the metadata of an RPC to the headers of a call, and back."""

import re

from gateway import BadRequest, Call, Headers, Unauthorized
from gateway_plugins.grpc.edge.context import Meta, Metadata

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key"))

LEFT_OUT = frozenset(
    (
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"expect",
        b"upgrade",
        b"keep-alive",
        b"user-agent",
        b"host",
        b"connection",
        b"accept",
    )
)
"""What concerns the transport; the transport's own encodings begin with `grpc-` or `accept-`."""

LINE = 32
"""Bytes of a line beside its name and its value, as HTTP/2 counts."""

NAME = re.compile(rb"[0-9a-z_.-]+")

TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")

MAX_LINES, MAX_BYTES = 32, 4_096
"""Maximum header lines of a response that become metadata, and their size."""

MAX_ID, MAX_VALUE = 128, 1_024
"""Maximum characters of an id of a request, and of another field of `meta`."""

PRINTABLE = re.compile(rb"[\x20-\x7e]+")


def headers_of(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Return the headers of a call."""
    lines = [(b"content-type", b"application/json")]
    for key, value in metadata:
        name = key.encode()
        if isinstance(value, str) and not _is_of_transport(name):
            lines.append((name, value.encode()))
    return lines


def add_meta(call: Call, headers: list[tuple[bytes, bytes]], meta: Meta) -> None:
    """Add what a request says of its call to the call's `headers`, which win."""
    there = {name for name, _ in headers}
    added = [line for line in _lines_of(meta) if line[0] not in there]
    headers.extend(added)
    if added and added[0][0] == b"x-request-id":
        call.id = added[0][1].decode()


def check_lines(headers: Headers, most: int) -> None:
    """Raise BadRequest if the headers are more than `most` bytes, or none of HTTP/1.1.

    The library lets line ends pass, and counts a line once that HPACK repeats a thousand times.
    """
    if sum(len(name) + len(value) + LINE for name, value in headers) > most:
        raise BadRequest(
            f"the metadata has more than {most} bytes (server_limits.max_header_bytes)"
        )
    for name, value in headers:
        if not NAME.fullmatch(name) or (value and not PRINTABLE.fullmatch(value)):
            raise BadRequest("the metadata has characters other than those from space to tilde")


def check_credentials(headers: Headers) -> None:
    """Raise Unauthorized if a key is there twice: it is not sure which one counts."""
    found = [name for name, _ in headers if name in CREDENTIALS]
    if len(found) > len(set(found)):
        raise Unauthorized("the metadata has several keys; send one `authorization: Bearer KEY`")


def _is_of_transport(name: bytes) -> bool:
    return (
        name in LEFT_OUT or name.startswith((b"grpc-", b"accept-", b":")) or name.endswith(b"-bin")
    )


def _lines_of(meta: Meta) -> list[tuple[bytes, bytes]]:
    trace = meta.trace_id.lower()
    told = (
        (b"x-request-id", meta.request_id),
        (b"x-session-id", meta.session_id),
        (b"x-user-id", meta.user_id),
        (b"traceparent", f"00-{trace}-{trace[:16]}-01" if TRACE_ID.fullmatch(trace) else ""),
    )
    lines = [(name, value.encode()) for name, value in told if value]
    return [line for line in lines if _is_fit(*line)]


def _is_fit(name: bytes, value: bytes) -> bool:
    """Whether a field can be a header; ids of requests are as short as those of HTTP callers."""
    if name == b"x-request-id" and (len(value) > MAX_ID or b" " in value):
        return False
    return PRINTABLE.fullmatch(value) is not None and len(value) <= MAX_VALUE


def lines_for_caller(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the lines of a response's headers that a caller gets as metadata: those with `x-`."""
    lines, size = list[tuple[bytes, bytes]](), 0
    for name, value in headers:
        size += len(name) + len(value)
        if name.startswith(b"x-") and PRINTABLE.fullmatch(value):
            if len(lines) == MAX_LINES or size > MAX_BYTES:
                break
            lines.append((name, value))
    return lines
