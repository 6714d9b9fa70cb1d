"""Reads what Python's `json` writes beyond JSON: NaN and Infinity, for which JSON has no number."""

import json
from typing import Any

import msgspec

_WORDS = (b"NaN", b"Infinity")


def as_json(data: bytes) -> bytes:
    """Return `data` with null for NaN, Infinity and -Infinity.

    Raises one of UNREADABLE if it has none of them, or is not JSON besides.
    """
    if not any(word in data for word in _WORDS):
        raise ValueError("no number that is none")
    return msgspec.json.encode(json.loads(data, parse_constant=_null))


def _null(_: str) -> Any:
    return None
