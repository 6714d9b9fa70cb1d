"""Parts of error messages: the expected value, the value found, and a suggestion."""

import difflib
import re
from collections.abc import Iterable, Sequence
from string import ascii_letters, digits
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from msgspec import Meta, UnsetType

from gateway.config.hints import container_kind, members, peel
from gateway.config.node import Node

_TYPES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    NoneType: "null",
}
_BOUNDS = {
    "gt": "greater than",
    "ge": "of at least",
    "lt": "less than",
    "le": "of at most",
    "min_length": "with a length of at least",
    "max_length": "with a length of at most",
    "pattern": "that matches",
}
_PLAIN = frozenset(ascii_letters + digits + "_-")


def describe(hint: Any) -> str:
    """Describe the values that a type accepts: `a number greater than 0 (seconds) or null`."""
    bare, metas, note = peel(hint)
    choices = [choice for choice in members(bare) if choice is not UnsetType]
    if note.expected:
        text = note.expected
    elif len(choices) > 1:
        text = " or ".join(describe(choice) for choice in choices)
    else:
        text = " ".join([_type(choices[0]), *_bounds(metas)])
    return f"{text} ({note.unit})" if note.unit else text


def describe_value(node: Node) -> str:
    """Return the value on one line; only its kind if it is secret, a list or a mapping."""
    value = node.value
    if node.secret or isinstance(value, dict | list) or value is None:
        kind = _kind(value)
        return f"{kind} (not shown)" if node.secret and kind in ("text", "a number") else kind
    if isinstance(value, str):
        return quote(_masked(value))
    if isinstance(value, int) and value.bit_length() > 64:
        # str() raises ValueError for an integer of many thousand digits.
        return "a number of more than 64 bits"
    return str(value).lower()


def line(place: str, path: str, problem: str) -> str:
    """Format one problem: `gateway.yaml:7: timeouts.connect: expected ...`."""
    return ": ".join(part for part in (place, path, problem) if part)


def quote(text: str) -> str:
    """Quote `text`: longer texts cut to 80 characters, line breaks and the like escaped."""
    cut = text if len(text) <= 80 else text[:77] + "..."
    return f'"{cut}"' if cut.isprintable() else f'"{ascii(cut)[1:-1]}"'


def dotted(path: str, key: str | int) -> str:
    """Append `key`, a name or an index, to `path`: `workers[0].tls`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if 0 < len(key) <= 80 and set(key) <= _PLAIN else quote(key)
    return f"{path}.{name}" if path else name


def suggest(name: str, known: Iterable[str], noun: str) -> str:
    """Suggest the known name closest to `name`; list all known names if none is close."""
    names = list(known)
    if close := difflib.get_close_matches(name, names, n=1):
        return f'did you mean "{close[0]}"?'
    return f"the {noun}s are {', '.join(names)}" if names else f"there are no {noun}s"


def listed(choices: Sequence[str]) -> str:
    """Join the choices: `a, b or c`."""
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def _type(bare: Any) -> str:
    if get_origin(bare) is Literal:
        choices = get_args(bare)
        return listed([quote(c) if isinstance(c, str) else str(c).lower() for c in choices])
    if container := container_kind(bare):
        return "a list" if container is list else "a mapping"
    if get_origin(bare) is tuple:
        return f"a list of {len(get_args(bare))} items"
    return _TYPES.get(bare) or str(getattr(bare, "__name__", bare))


def _masked(text: str) -> str:
    """Mask the parts of a URL that may hold a key: user and password, query, fragment."""
    user, at, rest = text.rpartition("@")
    if ":" in user:
        scheme, slashes, _ = user.rpartition("//")
        text = f"{scheme.partition('//')[0]}{slashes}...{at}{rest}"
    start = re.split("[?#]", text, maxsplit=1)[0]
    return text if start == text else f"{start}?..."


def _bounds(metas: list[Meta]) -> list[str]:
    bounds = [
        f"{words} {bound}"
        for meta in metas
        for name, words in _BOUNDS.items()
        if (bound := getattr(meta, name)) is not None
    ]
    return [" and ".join(bounds)] if bounds else []


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return "text"
