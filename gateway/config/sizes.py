"""Sizes in human-readable form: `20 MB`, `1.5 GiB`, or a plain number of bytes."""

import re

_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,3})?)\s*([kmgt]i?)?b\s*", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}

SCHEMA = (
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "string", "pattern": r"^\s*[0-9]{1,15}(\.[0-9]{1,3})?\s*([kKmMgGtT][iI]?)?[bB]\s*$"},
)
"""The accepted notations, as alternatives of a JSON Schema."""


def size(written: object) -> object:
    """Return the bytes in a text such as `20 MB` (20,000,000) or `20 MiB` (20,971,520).

    Returns any other value unchanged.
    """
    found = _SIZE.fullmatch(written) if isinstance(written, str) else None
    if found is None:
        return written
    unit = (found[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return round(float(found[1]) * base ** _POWERS.get(unit[:1], 0))
