"""HTTP header lines, and functions that read them."""

from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]
"""Header lines in order, names in lower case, repeated names kept apart."""


def is_event_stream(headers: Headers) -> bool:
    return (get_header(headers, b"content-type") or b"").lower().startswith(b"text/event-stream")


def get_header(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of `name` (lower case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None
