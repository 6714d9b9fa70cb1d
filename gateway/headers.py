"""HTTP header lines, and functions that read them."""

import random
import re
from collections.abc import Sequence
from urllib.parse import quote

from starlette.types import Scope

Headers = Sequence[tuple[bytes, bytes]]
"""Header lines in order, names in lower case, repeated names kept apart."""

HeaderLine = tuple[bytes, bytes]
Lines = list[HeaderLine]

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

_LIMITS = b"x-ratelimit-"

CORS_HEADERS = frozenset(
    b"access-control-" + name
    for name in (
        b"allow-origin",
        b"allow-credentials",
        b"allow-headers",
        b"allow-methods",
        b"allow-private-network",
        b"expose-headers",
        b"max-age",
    )
)
"""Headers by which a server says which web pages may read its responses."""


PLAIN = (None, b"identity")
"""Values of `content-encoding` that need no decoding."""


def is_event_stream(headers: Headers) -> bool:
    """Return whether the headers of a response announce an SSE stream."""
    return (get_header(headers, b"content-type") or b"").lower().startswith(b"text/event-stream")


def is_plain(headers: Headers) -> bool:
    """Return whether the body of a response is uncompressed."""
    return get_header(headers, b"content-encoding") in PLAIN


def get_header(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def body_headers(headers: Headers) -> tuple[bytes | None, bytes | None]:
    """Return the first content type and the first content coding of a response."""
    kind = coding = None
    for key, value in headers:
        if kind is None and key == b"content-type":
            kind = value
        elif coding is None and key == b"content-encoding":
            coding = value
    return kind, coding


def with_length(lines: Lines, length: int | None) -> Lines:
    """Replace the length of the body; None: it is not known, or there is no body."""
    known = [] if length is None else [(b"content-length", b"%d" % length)]
    return [line for old in lines for line in (known if old[0] == b"content-length" else [old])]


def one_set_of_limits(theirs: Lines, own: Lines, status: int) -> tuple[Lines, Lines]:
    """Leave out the worker's rate-limit headers if the gateway has its own.

    Of a call that the worker rejects for its rate, the worker's are kept: they say when to retry.
    """
    if not _has_limits(theirs) or not _has_limits(own):
        return theirs, own
    if status == 429:
        return theirs, [line for line in own if not line[0].startswith(_LIMITS)]
    return [line for line in theirs if not line[0].startswith(_LIMITS)], own


def _has_limits(lines: Lines) -> bool:
    return b"\n".join((b"", *dict(lines))).find(b"\n" + _LIMITS) >= 0


def checked_line(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a header line. Raises ValueError if it is not a valid one."""
    line = (name.lower().encode("latin-1"), value.encode("latin-1"))
    if not _NAME.fullmatch(line[0]) or not _VALUE.fullmatch(line[1]):
        raise ValueError(f"{name}: {value!r} is no header")
    return line


def path_of(scope: Scope) -> str:
    """Return the request's path below the application's mount point, percent-encoding kept."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else quote(scope["path"])
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def request_id(given: bytes | None) -> str:
    """Return the caller's x-request-id if it is short and printable, else a new one."""
    if given and len(given) <= 128 and given.isascii():
        text = given.decode()
        if text.isprintable() and " " not in text:
            return text
    return f"{random.getrandbits(128):032x}"  # random reseeds itself in a forked process
