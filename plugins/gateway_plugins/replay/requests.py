"""Compares requests: what counts as the same one, and where two of them differ first."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

IDENTITY = (
    "client_metadata",
    "metadata",
    "prompt_cache_key",
    "safety_identifier",
    "session_id",
    "user",
)
"""Fields in which harnesses put ids that are new in each run."""

MASKED = "\N{REPLACEMENT CHARACTER}"

EXCERPT = 60
"""Characters of the caller's own request in a message."""

_MISSING = object()


class Rules:
    """`ignore`: top-level fields that are not compared. `mask`: patterns of texts that are equal.

    Raises ValueError if a pattern is no regular expression.
    """

    def __init__(self, ignore: Sequence[str], mask: Sequence[str]) -> None:
        self._ignore = frozenset(ignore)
        try:
            self._masks = [re.compile(pattern) for pattern in mask]
        except re.error as error:
            raise ValueError(f"mask: {error.pattern!r} is no regular expression: {error}") from None

    def digest(self, path: str, request: object) -> bytes:
        """Return 32 bytes that are the same for equal requests. Raises ValueError: too deep."""
        try:
            text = json.dumps(self.compared(request), sort_keys=True, separators=(",", ":"))
        except RecursionError:
            raise ValueError("a request nests too deep to be compared") from None
        return hashlib.sha256(f"{path}\n{text}".encode("utf-8", "surrogatepass")).digest()

    def compared(self, request: object) -> object:
        """Return what is compared of a request. Raises RecursionError if it nests too deep."""
        if isinstance(request, Mapping):
            request = {key: value for key, value in request.items() if key not in self._ignore}
        return self._masked(request) if self._masks else request

    def _masked(self, value: object) -> object:
        if isinstance(value, str):
            for mask in self._masks:
                value = mask.sub(MASKED, value)
            return value
        if isinstance(value, Mapping):
            return {key: self._masked(one) for key, one in value.items()}
        return [self._masked(one) for one in value] if isinstance(value, list) else value


def first_difference(rules: Rules, recorded: object, found: object) -> tuple[str, str] | None:
    """Return the first field in which two requests differ, and words for it; None if in none.

    The words hold nothing of the recorded request.
    """
    try:
        return next(_differences("", rules.compared(recorded), rules.compared(found)), None)
    except RecursionError:
        return "the request", "a field that nests deeply differs"


def _differences(path: str, recorded: Any, found: Any) -> Iterator[tuple[str, str]]:
    name = path or "the request"
    if recorded is _MISSING:
        yield name, f"`{name}` was not in the recorded request"
    elif found is _MISSING:
        yield name, f"`{name}` was in the recorded request"
    elif isinstance(recorded, dict) and isinstance(found, dict):
        for key in {**recorded, **found}:
            inner = f"{path}.{key}" if path else key
            yield from _differences(inner, recorded.get(key, _MISSING), found.get(key, _MISSING))
    elif isinstance(recorded, list) and isinstance(found, list):
        for place in range(max(len(recorded), len(found))):
            pair = (one[place] if place < len(one) else _MISSING for one in (recorded, found))
            yield from _differences(f"{path}[{place}]", *pair)
    elif json.dumps(recorded) != json.dumps(found):
        yield name, _words(name, recorded, found)


def _words(name: str, recorded: object, found: object) -> str:
    if not (isinstance(recorded, str) and isinstance(found, str)):
        return f"`{name}` is another value, {json.dumps(found)[:EXCERPT]}"
    pairs = enumerate(zip(recorded, found, strict=False))
    at = next((place for place, (one, other) in pairs if one != other), None)
    at = min(len(recorded), len(found)) if at is None else at
    return f"`{name}` differs from character {at} on, where it goes on {found[at:][:EXCERPT]!r}"
