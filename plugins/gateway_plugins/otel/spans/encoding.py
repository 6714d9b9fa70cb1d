"""Messages of OTLP as bytes of protobuf, written directly: as objects they take five times as long.

The numbers of the fields are those of opentelemetry-proto, which never change; the tests read what
is written here with its library.
"""

from functools import lru_cache
from struct import Struct

from gateway_plugins.otel.parameters import Value

MAX_KNOWN = 1_024
"""Messages that are kept of each kind; callers can make up a model's name, and little else."""

ATTRIBUTE = b"\x4a"
"""Tag of an attribute in a span. In an event, a resource and a scope it has another one."""

EVENT = b"\x5a"
"""Tag of an event in a span."""

IN_EVENT = b"\x1a"
"""Tag of an attribute in an event."""

_SHORT = tuple(bytes((number,)) for number in range(128))
_double = Struct("<d").pack
_time = Struct("<cQ").pack


def varint(number: int) -> bytes:
    """Encode an integer of 64 bits; a negative one has ten bytes, as `int64` has them."""
    if 0 <= number < 128:
        return _SHORT[number]
    left, found = number & ((1 << 64) - 1), bytearray()
    while left > 127:
        found.append(left & 127 | 128)
        left >>= 7
    found.append(left)
    return bytes(found)


def field(tag: bytes, data: bytes) -> bytes:
    """Return a field whose length goes before it: a text, bytes or a message."""
    return tag + varint(len(data)) + data


def utf8(text: str) -> bytes:
    return text.encode(errors="replace")


def attribute(name: str, value: Value, tag: bytes = ATTRIBUTE) -> bytes:
    """Return a KeyValue as a field with this tag."""
    return field(tag, field(b"\x0a", utf8(name)) + field(b"\x12", _any(value)))


def varying(name: str, value: str) -> bytes:
    """Return an attribute of a span whose text is another one each time."""
    data = utf8(value)
    return _before_text(name, len(data)) + data


@lru_cache(MAX_KNOWN)
def _before_text(name: str, length: int) -> bytes:
    whole = attribute(name, "x" * length)
    return whole[: len(whole) - length]


def measured(name: str, value: float) -> bytes:
    """Return an attribute of a span whose number is another one each time."""
    return _before_double(name) + _double(value)


@lru_cache(MAX_KNOWN)
def _before_double(name: str) -> bytes:
    return attribute(name, 0.0)[:-8]


@lru_cache(MAX_KNOWN)
def counted(name: str, value: int) -> bytes:
    """Return an attribute of a span with one of not too many numbers."""
    return attribute(name, value)


def event(time: int, rest: bytes) -> bytes:
    """Return an event of a span, at Unix nanoseconds; `rest` is what `event_named` returns."""
    return EVENT + varint(9 + len(rest)) + _time(b"\x09", time) + rest


@lru_cache(MAX_KNOWN)
def event_named(name: str, *told: tuple[str, str | float]) -> bytes:
    """Return an event without its time: its name and attributes."""
    attributes = [attribute(key, value, IN_EVENT) for key, value in told]
    return field(b"\x12", utf8(name)) + b"".join(attributes)


def _any(value: Value) -> bytes:
    if isinstance(value, str):
        return field(b"\x0a", utf8(value))
    if isinstance(value, bool):
        return b"\x10" + varint(value)
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    return field(b"\x2a", b"".join([field(b"\x0a", _any(one)) for one in value]))
