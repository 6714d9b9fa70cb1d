"""The fields of a request that matter to the gateway, read from its body. Nothing here raises."""

import msgspec
from msgspec import Raw

_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FALSE = frozenset((b"", b"false", b"null"))


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """The requested model, and whether vLLM would respond with an event stream."""

    model: str | None = None
    streams: bool = False


class _Head(msgspec.Struct, gc=False):
    model: str | None = None
    stream: Raw = Raw()


class RequestBounds(msgspec.Struct, gc=False):
    """Fields that bound the size of a response."""

    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None


_read_head = msgspec.json.Decoder(_Head).decode
_read_bounds = msgspec.json.Decoder(RequestBounds, strict=False).decode  # engines accept "5" for 5


def read_head(body: bytes) -> RequestHead:
    """Return the head of a request; an empty one if `body` cannot be read."""
    try:
        head = _read_head(body)
        stream = bytes(head.stream)
        if stream in _FALSE:
            return RequestHead(head.model)
        return RequestHead(head.model, stream == b"true" or is_true(msgspec.json.decode(stream)))
    except _FAILURES:
        return RequestHead()


def read_bounds(body: bytes) -> RequestBounds:
    """Return the bounds of a request; none if `body` cannot be read, as the worker rejects it."""
    try:
        return _read_bounds(body)
    except _FAILURES:
        return RequestBounds()


def is_true(value: object) -> bool:
    """Whether a worker takes `value` as true: pydantic accepts strings, and rejects other types."""
    if isinstance(value, str):
        return value.lower() not in ("0", "off", "f", "false", "n", "no")
    return value is not None and value is not False and value != 0
