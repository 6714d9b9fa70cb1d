"""The tree of values and their places that files, environment and command line are read into.

`port: 9090` in line 2 is `Node({"port": Node(9090, "gateway.yaml:2")}, "gateway.yaml:1")`,
and GATEWAY_PORT=9090 is `Node({"port": Node("9090", "GATEWAY_PORT", loose=True)}, "environment")`.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import UnsetType

MAX_DEPTH = 32
_OPENING = frozenset(("[", "{", b"[", b"{"))
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


class Variable(msgspec.Struct, frozen=True):
    """A value that the environment gave; `name` begins every message about it."""

    name: str
    value: str


class Node(msgspec.Struct, frozen=True):
    """A value as it was written.

    `place` begins every message about it: `gateway.yaml:7`, `GATEWAY_PORT`, `--port`.
    A `loose` value comes from a source that has only text (the environment, the command line,
    `${NAME}`): "8000" may be a number, and "a,b" a list. No message shows a `secret` value.
    UNSET stands for a value with a mistake that is reported already.
    """

    value: "bool | int | float | str | UnsetType | list[Node] | dict[str, Node] | None"
    place: str
    loose: bool = False
    secret: bool = False

    @classmethod
    def of(cls, value: object, place: str, *, loose: bool = False, room: int = MAX_DEPTH) -> "Node":
        """Build a node from plain mappings, lists and scalars, all at one place.

        The place of a Variable is its name. Any other value becomes text. Raises ValueError if it
        nests more than `room` levels deep.
        """
        if room < 0:
            raise ValueError(TOO_DEEP)

        def child(inner: object) -> Node:
            return cls.of(inner, place, loose=loose, room=room - 1)

        match value:
            case None | bool() | int() | float() | str():
                return cls(value, place, loose)
            case Mapping():
                return cls({str(key): child(inner) for key, inner in value.items()}, place, loose)
            case list() | tuple():
                return cls([child(inner) for inner in value], place, loose)
            case Variable():
                return cls(value.value, value.name, loose=True)
            case _:
                return cls(str(value), place, loose)

    @property
    def plain(self) -> object:
        """The value without the places."""
        if isinstance(self.value, dict):
            return {key: child.plain for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain for child in self.value]
        return self.value


def depth_of(brackets: Iterable[str | bytes]) -> int:
    """How deep these nest at the deepest, whichever kinds they are."""
    deepest = depth = 0
    for bracket in brackets:
        depth = depth + 1 if bracket in _OPENING else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def merge(lower: Node, upper: Node) -> Node:
    """Merge `upper` over `lower`: mappings key by key; any other value replaces the lower one."""
    if not (isinstance(lower.value, dict) and isinstance(upper.value, dict)):
        return upper
    both = {
        key: merge(lower.value[key], upper.value[key]) for key in lower.value & upper.value.keys()
    }
    return Node(lower.value | upper.value | both, upper.place)
