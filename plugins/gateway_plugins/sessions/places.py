"""Places in a request where a harness says something, and how they are read.

`header:NAME` is a header, `body:KEY` a field of the JSON body. Further keys after dots go down into
objects, and into texts that hold JSON: `body:metadata.user_id.session_id`,
`header:x-codex-turn-metadata.request_kind`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

MAX_VALUE = 4096
"""Maximum length in characters of what a place says. Longer texts say nothing."""

MAX_JSON = 65536
"""Maximum length in characters of a text in which JSON is looked for."""


class Place(msgspec.Struct, frozen=True):
    """One place: the header's or field's `name`, and the `keys` to go down from there."""

    part: Literal["header", "body"]
    name: str
    keys: tuple[str, ...] = ()


def parse_place(text: str) -> Place:
    """Return the place that `text` names; ValueError if it names none."""
    part, colon, path = text.partition(":")
    name, *keys = path.split(".")
    if part not in ("header", "body") or not colon or not all((name, *keys)):
        raise ValueError(
            f"{text!r} is no place in a request: write header:NAME or body:KEY, with further keys "
            "after dots"
        )
    if part == "header":
        return Place("header", name.lower(), tuple(keys))
    return Place("body", name, tuple(keys))


def header_text(value: bytes) -> str:
    """Return the text of a header: UTF-8, as in a path, or else Latin-1, which HTTP says."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def read_place(place: Place, headers: Mapping[str, str], body: Mapping[str, Any]) -> str | None:
    """Return the text at `place`; None if there is none, or one that is empty or too long."""
    value: Any = (headers if place.part == "header" else body).get(place.name)
    for key in place.keys:
        if isinstance(value, str):
            value = _parsed(value)
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) and 0 < len(value) <= MAX_VALUE else None


def _parsed(text: str) -> Any:
    if len(text) > MAX_JSON:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
