"""The keys that injections set in the body of a request.

Most bodies have none of the keys that decide about injections, but for `stream`: they get what a
body without any other key gets, which is known beforehand.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from gateway.wire.dialect import Dialect
from gateway.wire.request import is_true

Injection = Literal["token_ids", "logprobs", "usage"]
INJECTIONS: tuple[Injection, ...] = get_args(Injection)


class Injected(msgspec.Struct, frozen=True):
    """What is set in a body, and for which injections.

    `sees_tokens`: the caller requested ids or logprobs itself. `added` is the text of the changes
    as members after those of the body, if it certainly has none of their keys; else b"".
    """

    changes: Mapping[str, object]
    injected: frozenset[Injection]
    sees_tokens: bool
    added: bytes = b""


def injected_into(
    dialect: Dialect,
    body: Mapping[str, object],
    wanted: Collection[Injection],
    read: Callable[[], Mapping[str, object]] | None = None,
) -> Injected:
    """Return what the wanted injections set in `body`, or in what `read` returns if that is given.

    `read` is called only if the values matter, but for that of `stream`; `body` has all keys.
    """
    stream = body.get("stream")
    known = stream if stream is True or stream is False else None
    keys, found = _into_bare_body(dialect, frozenset(wanted), known)
    if keys.isdisjoint(body):
        return found
    return _injected_into(dialect, body if read is None else read(), wanted)


def _injected_into(
    dialect: Dialect, body: Mapping[str, object], wanted: Collection[Injection]
) -> Injected:
    changes: dict[str, object] = {}
    injected: set[Injection] = set()
    for name in INJECTIONS:
        change = dialect.request_changes.get(name) if name in wanted else None
        if change is not None and (added := change(body)):
            changes.update(added)
            injected.add(name)
    sees_tokens = is_true(body.get("return_token_ids")) or is_true(body.get("logprobs"))
    return Injected(changes, frozenset(injected), sees_tokens)


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
    dialect: Dialect, wanted: frozenset[Injection], stream: bool | None
) -> tuple[frozenset[str], Injected]:
    """Return what is set in a body that has none of these keys, and the keys.

    `stream` is its value of that key, None if it has no such key.
    """
    body = _BareBody(stream)
    found = _injected_into(dialect, body, wanted)
    if found.changes and body.asked.issuperset(found.changes):
        added = b"," + msgspec.json.encode(found.changes)[1:-1]
        found = msgspec.structs.replace(found, added=added)
    return frozenset(body.asked), found
