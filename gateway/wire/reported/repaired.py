"""Reads what engines write beyond JSON: `-Infinity` for a logprob, a NUL or BOM around the text."""

import json
from collections.abc import Callable
from typing import TypeVar

from gateway.errors import NOT_JSON

T = TypeVar("T")

MAX_REPAIRED_BYTES = 1024 * 1024
"""Maximum length of a text to repair: a longer one would block all other calls meanwhile."""

_BOM = b"\xef\xbb\xbf"


def repaired(text: bytes) -> bytes:
    """Return `text` as JSON, with null for NaN, Infinity and -Infinity, and U+FFFD for what is no
    UTF-8; `text` itself if it is too long, or no JSON besides. Never raises."""
    if len(text) > MAX_REPAIRED_BYTES:
        return text
    bare = text.removeprefix(_BOM).rstrip(b"\0").decode(errors="replace")
    try:
        value = json.loads(bare, parse_constant=_null, strict=False)
    except (ValueError, RecursionError):
        return text
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def read_repaired(read: Callable[[bytes], T], text: bytes) -> T | None:
    """Return what `read` makes of the repaired `text`, for a text that it could not read; None if
    it cannot read that either."""
    try:
        return read(repaired(text))
    except NOT_JSON:
        return None


def _null(_: str) -> None:
    return None
