"""Checks of values that have a type and yet no sense. All of them raise BadRequest."""

import math
from typing import Any

import msgspec

from gateway import NOT_JSON, BadRequest


def parsed(data: bytes, field: str) -> Any:
    """Return the value of the JSON in a field."""
    try:
        return msgspec.json.decode(data)
    except NOT_JSON:
        raise BadRequest(f"{field} is not JSON", param=field) from None


def json_object(data: bytes, field: str) -> msgspec.Raw:
    """Return the JSON object in a field, byte for byte."""
    if not isinstance(parsed(data, field), dict):
        raise BadRequest(f"{field} is not a JSON object", param=field)
    return msgspec.Raw(data)


def finite(value: float, field: str) -> float:
    """Return a number that JSON can have."""
    if not math.isfinite(value):
        raise BadRequest(f"{field} is not a finite number", param=field)
    return value


def given(text: str, field: str) -> str:
    """Return a text that must not be empty."""
    if not text:
        raise BadRequest(f"{field} is missing", param=field)
    return text
