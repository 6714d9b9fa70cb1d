"""Merges stream deltas, in time linear in their length."""

from collections.abc import Sequence
from typing import Any

_ONCE = frozenset({"id", "type", "name", "role", "index"})


class _Pieces(list[str]):
    """A text that is still being assembled."""


def merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Merge `delta` into `into`: append texts, extend lists, replace other values.

    Names and ids are set only once, because some engines repeat them. Call `settled` at the end.
    """
    for key, value in delta.items():
        old = into.get(key)
        if value is None or (key in _ONCE and old):
            into.setdefault(key, value)
        elif isinstance(value, str) and key not in _ONCE:
            _grow(into, key, value)
        elif isinstance(value, dict):
            merge(into.setdefault(key, {}) if isinstance(old, dict) else _renew(into, key), value)
        elif isinstance(value, list) and type(old) is list:
            old.extend(value)
        else:
            into[key] = list(value) if isinstance(value, list) else value


def settled(value: Any) -> Any:
    """Return a merged value as plain JSON types."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items()}
    return value


def joined(pieces: Sequence[Any]) -> Any:
    """Join texts; return a list if some pieces are lists of content parts, None if all are None."""
    known = [piece for piece in pieces if piece is not None]
    try:
        return "".join(known) if known else None
    except TypeError:
        return [part for piece in known for part in _parts(piece)]


def _grow(into: dict[str, Any], key: str, text: str) -> None:
    old = into.get(key)
    if isinstance(old, _Pieces):
        old.append(text)
    else:
        into[key] = _Pieces([old, text] if isinstance(old, str) else [text])


def _renew(into: dict[str, Any], key: str) -> dict[str, Any]:
    new: dict[str, Any] = {}
    into[key] = new
    return new


def _parts(piece: Any) -> list[Any]:
    if isinstance(piece, list):
        return piece
    return [{"type": "text", "text": piece}] if piece else []
