"""Converts times and durations between text and numbers: Unix seconds and seconds."""

import math
from datetime import UTC, datetime

MAX_UNIX_SECONDS = 1e11
"""Maximum Unix seconds, in the year 5138: a larger number must be in milliseconds."""

MAX_DURATION = 1e10
"""Maximum seconds of a duration, three centuries: a longer one must be a mistake."""

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def to_unix(text: str | float) -> float:
    """Convert ISO 8601 (UTC if it has no offset), or Unix seconds, to Unix seconds.

    Raises ValueError with what was expected.
    """
    try:
        found = _iso(text) if isinstance(text, str) else text
    except (ValueError, OverflowError):
        found = math.nan
    if not 0 <= found <= MAX_UNIX_SECONDS:
        raise ValueError("expected ISO 8601, such as 2030-01-31T12:00:00Z, or Unix seconds")
    return float(found)


def _iso(text: str) -> float:
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def to_iso(seconds: float) -> str:
    """Format Unix seconds as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(text: str) -> float:
    """Convert `90d` or `1.5h` to seconds. Raises ValueError with what was expected."""
    number, unit = text[:-1], text[-1:]
    plain = number.isascii() and number.replace(".", "", 1).isdigit() and len(number) <= 12
    seconds = float(number) * UNITS[unit] if unit in UNITS and plain else math.inf
    if seconds > MAX_DURATION:
        raise ValueError("expected a number with s, m, h, d or w, such as 90d")
    return seconds
