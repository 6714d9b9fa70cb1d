"""The keys that injections set in the body of a request.

Most bodies have none of the keys that decide about injections: they get what a body without any key
gets, which is known beforehand.
"""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from gateway.wire.dialect import Dialect
from gateway.wire.request import is_true

Injection = Literal["token_ids", "logprobs", "usage"]
INJECTIONS: tuple[Injection, ...] = get_args(Injection)


class Injected(msgspec.Struct, frozen=True):
    """What is set in a body, and for which injections.

    `sees_tokens`: the caller requested ids or logprobs itself.
    """

    changes: Mapping[str, object]
    injected: frozenset[Injection]
    sees_tokens: bool


def injected_into(
    dialect: Dialect, body: Mapping[str, object], wanted: Collection[Injection]
) -> Injected:
    """Return what the wanted injections set in `body`."""
    keys, found = _into_bare_body(dialect, frozenset(wanted))
    return found if keys.isdisjoint(body) else _injected_into(dialect, body, wanted)


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
    """A body without any key, that notes the keys that it is asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self.asked.add(key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise TypeError("an injection depends on single keys")

    def __len__(self) -> int:
        raise TypeError("an injection depends on single keys")


@lru_cache(maxsize=64)
def _into_bare_body(
    dialect: Dialect, wanted: frozenset[Injection]
) -> tuple[frozenset[str], Injected]:
    """Return what is set in a body that has none of these keys, and the keys."""
    body = _BareBody()
    found = _injected_into(dialect, body, wanted)
    return frozenset(body.asked), found
