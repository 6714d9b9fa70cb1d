"""Deltas put together, in time linear in their length."""

from collections.abc import Iterable, Sequence
from typing import Any

_ONCE = frozenset({"id", "type", "name", "role", "index"})


class _Pieces(list[str]):
    """A text that still grows."""


def merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Adds `delta`: texts grow, lists are extended, the rest replaces what was there.

    Names and ids come once; some engines repeat them. Call `settled` at the end.
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
    """What was merged, as JSON."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items()}
    return value


def joined(pieces: Sequence[Any]) -> Any:
    """One text of many; one list where some of them are lists of content parts; None of none."""
    known = [piece for piece in pieces if piece is not None]
    try:
        return "".join(known) if known else None
    except TypeError:
        return [part for piece in known for part in _parts(piece)]


def tool_calls(fragments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls that the fragments are of, without the `index` that tells them apart.

    Where an engine sends no index, an id that is new begins a call.
    """
    calls: dict[int, dict[str, Any]] = {}
    last = -1
    for fragment in fragments:
        index = fragment.get("index")
        if not isinstance(index, int):
            index = _place(calls, last, fragment.get("id"))
        last = index
        merge(calls.setdefault(index, {}), fragment)
    return [_without_index(settled(calls[index])) for index in sorted(calls)]


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


def _place(calls: dict[int, dict[str, Any]], last: int, id_: object) -> int:
    is_new = id_ is not None and calls.get(last, {}).get("id") not in (None, id_)
    return max(calls, default=-1) + 1 if is_new or not calls else last


def _without_index(call: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "index"}
