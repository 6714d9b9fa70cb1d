"""The keys that injections set in the body of a request.

Most bodies have none of the keys that decide about injections, but for `stream`: they get what a
body without any other key gets, which is known beforehand.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from gateway.wire.dialect import Dialect, Engine
from gateway.wire.request import is_true
from gateway.wire.stripping.places import IN_SGLEXT, fields_at

Injection = Literal["token_ids", "logprobs", "usage"]
INJECTIONS: tuple[Injection, ...] = get_args(Injection)
NO_INJECTIONS: frozenset[Injection] = frozenset()

INJECTED_FIELDS: Mapping[Injection, str] = {
    "token_ids": "|".join(("return_token_ids", *IN_SGLEXT, "return_prompt_token_ids")),
    "logprobs": "logprobs|top_logprobs|return_logprob",
    "usage": "stream_options|include_usage",
}
"""Patterns of the request fields that each injection sets."""


class Injected(msgspec.Struct, frozen=True):
    """What is set in a body, and for which injections.

    `sees_tokens`: the caller requested ids or logprobs itself. `in_sglext` and `kept` are fields of
    a response of SGLang: those of `sglext` that are requested, and those that the caller requested
    itself. `added` is the text of the changes as members after those of the body, if it certainly
    has none of their keys; else b"".
    """

    changes: Mapping[str, object]
    injected: frozenset[Injection]
    sees_tokens: bool
    in_sglext: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    added: bytes = b""


def injected_into(
    dialect: Dialect,
    body: Mapping[str, object],
    wanted: Collection[Injection],
    read: Callable[[], Mapping[str, object]] | None = None,
    engine: Engine | None = None,
) -> Injected:
    """Return what the wanted injections set in `body`, or in what `read` returns if that is given.

    `engine` is that of the worker if it has a way of its own. `read` is called only if the values
    matter, but for that of `stream`; `body` has all keys.
    """
    stream = body.get("stream")
    known = stream if stream is True or stream is False else None
    keys, found = _into_bare_body(dialect, frozenset(wanted), known, engine)
    if keys.isdisjoint(body):
        return found
    return _injected_into(dialect, body if read is None else read(), wanted, engine)


def _injected_into(
    dialect: Dialect,
    body: Mapping[str, object],
    wanted: Collection[Injection],
    engine: Engine | None,
) -> Injected:
    ways = dialect.request_changes
    if engine is not None:
        ways = {**ways, **dialect.other_changes.get(engine, {})}
    changes: dict[str, object] = {}
    injected: set[Injection] = set()
    for name in INJECTIONS:
        change = ways.get(name) if name in wanted else None
        if change is not None and (added := change(body)):
            changes.update(added)
            injected.add(name)
    sees_tokens = is_true(body.get("return_token_ids")) or is_true(body.get("logprobs"))
    places = dialect.places
    asked_for = {field for field, key in places.asked_by.items() if is_true(body.get(key))}
    in_sglext = fields_at(places.in_sglext, injected)
    return Injected(
        changes,
        frozenset(injected),
        sees_tokens,
        tuple(field for field in in_sglext if places.asked_by[field] in changes),
        tuple(asked_for),
    )


class _BareBody(Mapping[str, object]):
    """A body with `stream` at most, that notes the other keys that it is asked for."""

    def __init__(self, stream: bool | None) -> None:
        self.asked: set[str] = set()
        self._stream = stream

    def __getitem__(self, key: str) -> object:
        if key == "stream" and self._stream is not None:
            return self._stream
        self.asked.add(key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise TypeError("an injection depends on single keys")

    def __len__(self) -> int:
        raise TypeError("an injection depends on single keys")


@lru_cache(maxsize=64)
def _into_bare_body(
    dialect: Dialect,
    wanted: frozenset[Injection],
    stream: bool | None,
    engine: Engine | None,
) -> tuple[frozenset[str], Injected]:
    """Return what is set in a body that has none of these keys, and the keys.

    `stream` is its value of that key, None if it has no such key.
    """
    body = _BareBody(stream)
    found = _injected_into(dialect, body, wanted, engine)
    if found.changes and body.asked.issuperset(found.changes):
        added = b"," + msgspec.json.encode(found.changes)[1:-1]
        found = msgspec.structs.replace(found, added=added)
    return frozenset(body.asked), found


def fields_of(injections: Iterable[Injection]) -> list[str]:
    """Return the main request field of each injection, sorted."""
    return sorted(INJECTED_FIELDS[one].partition("|")[0] for one in injections)


def listed(injections: Iterable[Injection]) -> str:
    """Return the same fields for a message."""
    return ", ".join(fields_of(injections))
