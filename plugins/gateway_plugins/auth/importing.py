"""Reads the key file of the orchestrator `llm-gateway`, and hashes its tokens.

    {"keys": [{"id": "alice", "token": "in-plain-text", "scopes": ["realtime", "monitor"]}]}

Entries that the orchestrator ignores are left out, and told. No message contains a token.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway import NOT_JSON, ConfigError, json_mistake
from gateway_plugins.auth.keys import Entry, problem_of
from gateway_plugins.auth.reading import read

SCOPES = frozenset({"realtime", "batch", "eval", "upload", "monitor"})
"""The orchestrator's scopes, which have the same names here.

A key gets no other scope: `admin`, for one, opened nothing there and opens everything here.
"""

MAX_SHOWN = 60
"""Characters of a foreign scope that are shown."""


MAX_LINES = 100
"""Mistakes that are named."""


def bounded(lines: list[str]) -> list[str]:
    more = len(lines) - MAX_LINES
    return [*lines[:MAX_LINES], f"and {more} more"] if more > 0 else lines


class Imported(msgspec.Struct, frozen=True):
    """The entries of a file, and a line for each entry and scope that was left out."""

    entries: list[Entry]
    left_out: list[str]


class _File(msgspec.Struct):
    keys: list[msgspec.Raw]


class _Foreign(msgspec.Struct, frozen=True):
    """An entry as the orchestrator reads it: other members are ignored, numbers become texts."""

    id: str | int = ""
    token: str | int = ""
    scopes: list[str] | None = None

    def __repr__(self) -> str:
        return f"_Foreign({self.id!r})"  # never the token

    @property
    def missing(self) -> list[str]:
        there = {"id": self.id, "token": self.token, "scopes": self.scopes is not None}
        return [name for name, value in there.items() if not value]


def foreign_keys(path: Path) -> Imported:
    """Return the entries of the orchestrator's file, with hashed tokens.

    Raises ConfigError if the file cannot be read, has no valid entry, or has entries with the same
    token: these are named.
    """
    try:
        return _imported(read(path).data)
    except ConfigError as error:
        named = f"{path}: "
        lines = [named + line.removeprefix(named) for line in error.problems]
        raise ConfigError(*lines) from None


def _imported(data: bytes) -> Imported:
    found = Imported([], [])
    places = list[str]()
    for number, raw in enumerate(_split(data)):
        place = f"keys[{number}]"
        try:
            foreign, entry = _entry(raw)
        except ValueError as error:
            found.left_out.append(f"{place} is left out: {error}")
            continue
        places.append(f"{place} ({entry.id!r})")
        found.entries.append(entry)
        found.left_out.extend(_foreign_scopes(foreign, places[-1]))
    if problems := [*_shared(found.entries, places)]:
        raise ConfigError(*bounded(problems))
    if not found.entries:
        raise ConfigError(*bounded(found.left_out), "has no valid key")
    return found


def _split(data: bytes) -> list[msgspec.Raw]:
    text = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return msgspec.json.decode(text, type=_File).keys
    except NOT_JSON:
        raise ConfigError(json_mistake(text, _File)) from None


def _entry(raw: msgspec.Raw) -> tuple[_Foreign, Entry]:
    """Read an entry. Raises ValueError, without any value, if it is invalid."""
    try:
        foreign = msgspec.json.decode(raw, type=_Foreign)
    except NOT_JSON:
        raise ValueError(json_mistake(bytes(raw), _Foreign)) from None
    if foreign.missing:
        raise ValueError(f"it has no {' and no '.join(foreign.missing)}")
    scopes = tuple(scope for scope in dict.fromkeys(foreign.scopes or ()) if scope in SCOPES)
    plain = Entry(str(foreign.id), token=str(foreign.token), scopes=scopes)
    if problem := problem_of(plain):
        raise ValueError(problem)
    return foreign, msgspec.structs.replace(plain, token=None, token_sha256=plain.digest.hex())


def _foreign_scopes(foreign: _Foreign, place: str) -> Iterator[str]:
    for scope in sorted({*(foreign.scopes or ())} - SCOPES):
        yield f"{place}: the scope {scope[:MAX_SHOWN]!r} is left out: it opened nothing there"


def _shared(entries: list[Entry], places: list[str]) -> Iterator[str]:
    """Yield a line for each entry with the token of an earlier one."""
    first: dict[str | None, str] = {}
    for entry, place in zip(entries, places, strict=True):
        if place != (earlier := first.setdefault(entry.token_sha256, place)):
            yield f"{place} has the same token as {earlier}; give one of them another token"
