"""Reads what engines write beyond JSON: NaN and Infinity, NUL, and characters that are cut in two.

An emoji is two tokens for some engines, and each half comes in an event of its own: as half of a
surrogate pair (`\\ud83d`, as Python's `json` writes it), or as bytes that are no UTF-8. A private
character takes the place of each half until all texts are joined.
"""

import json
import re
from typing import Any

import msgspec

from gateway_plugins.trace_capture.answers.assembled import Assembled
from gateway_plugins.trace_capture.codec import pack_texts, unpack_texts

_HALF = re.compile("[\ud800-\udfff]")
_OFFSET = 0x100000
"""From a half (U+D800 to U+DFFF) to the private character in its place."""

_PLACED = re.compile(
    "([\U0010d800-\U0010dbff])([\U0010dc00-\U0010dfff])|([\U0010dc80-\U0010dcff]+)"
)
_BOM = b"\xef\xbb\xbf"
_LEFT = re.compile("[\U0010d800-\U0010dfff]")


def as_json(data: bytes) -> bytes:
    """Return `data` as JSON: null for NaN, Infinity and -Infinity, private characters for halves.

    Raises one of UNREADABLE if it is not JSON besides.
    """
    text = data.removeprefix(_BOM).rstrip(b"\0").decode("utf-8", "surrogateescape")
    value = json.loads(text, parse_constant=_null, strict=False)
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _HALF.sub(lambda half: chr(ord(half[0]) + _OFFSET), written).encode()


def decoded(data: bytes) -> Any:
    """Decode `data`, with null for NaN, Infinity and -Infinity. Raises one of UNREADABLE."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(data.rstrip(b"\0"), parse_constant=_null, strict=False)


def join_halves(record: Assembled) -> Assembled:
    """Put characters together in the texts of `record`; a half that is left becomes U+FFFD.

    The record is not `readable` then, unless it is a token's text: that of one token may be a half.
    """
    joined = _whole_ones(record.skeleton.decode())
    record.readable = record.readable and _LEFT.search(joined) is None
    record.skeleton = _LEFT.sub("\ufffd", joined).encode()
    for part in record.parts:
        part.extra = _joined(part.extra.decode()).encode()
        if part.packed_tokens is not None:
            part.packed_tokens = pack_texts(map(_joined, unpack_texts(part.packed_tokens)))
    return record


def _joined(text: str) -> str:
    return _LEFT.sub("\ufffd", _whole_ones(text))


def _whole_ones(text: str) -> str:
    return _PLACED.sub(_whole, text)


def _whole(found: re.Match[str]) -> str:
    high, low, escaped = found.groups()
    if escaped is None:
        return chr(0x10000 + ((ord(high) & 0x3FF) << 10 | ord(low) & 0x3FF))
    found_bytes = bytes(ord(one) & 0xFF for one in escaped)
    try:
        return found_bytes.decode()
    except UnicodeDecodeError:
        return "".join(escaped)  # each is left over


def _null(_: str) -> Any:
    return None
