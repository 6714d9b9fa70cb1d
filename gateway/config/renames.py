"""Former names of fields and options. They work, with a warning, until a later version.

A Struct, such as a plugin's Config, lists the former names of its fields by the version until which
they work:

    renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {"0.2": {"held": "max_held"}}

`{"db_path": "storage.path"}` moves a field into the Struct `storage`. It is a mistake if one file
has both the former and the new name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from gateway.config.hints import container_kind, fields_of, member_for, peel, without_none
from gateway.config.messages import describe_value, dotted, line, listed, quote
from gateway.config.node import Node


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """The meaning of a former name: the field `now`, such as `storage.path`.

    `until` is the first version without the former name. If `values` is given, it has each
    accepted value, in lower case, with the new field's value; None sets nothing.
    """

    now: str
    until: str = ""
    values: Mapping[str, str | None] | None = None

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.now.split("."))

    def value(self, node: Node) -> Node | None:
        """Return the new field's value; None if it is not set. Raises ValueError."""
        if self.values is None:
            return node
        text = node.value.lower() if isinstance(node.value, str) else ""
        if text not in self.values:
            choices = listed([quote(choice) for choice in self.values])
            raise ValueError(f"expected {choices}, got {describe_value(node)}")
        value = self.values[text]
        return None if value is None else replace(node, value=value)

    def notice(self, old: str, new: str, value: Node | None) -> str:
        """Return the warning for one use; `old` and `new` are the names as the user writes them."""
        if value is None:
            return f"{old} is now called {new}; leave {old} out, this value sets nothing"
        text = f" (with the value {describe_value(value)})" if self.values is not None else ""
        return f"{old} is now called {new}{text}; the old name works until {self.until}"


Renames = Mapping[str, Mapping[str, str | Former]]
"""Former names with the present ones, by the version until which they work."""


def former_names(cls: Any) -> dict[str, Former]:
    """Return the former names of a Struct's fields; most Structs have none."""
    renames: Renames = getattr(cls, "renamed_until", {})
    return {
        old: replace(now if isinstance(now, Former) else Former(now=now), until=version)
        for version, names in renames.items()
        for old, now in names.items()
    }


def with_new_names(
    node: Node, cls: type[msgspec.Struct], problems: list[str], warnings: list[str], field: str = ""
) -> Node:
    """Return the mapping `node` of the fields of `cls`, in all its depth, without former names.

    `field` is the prefix of the fields' names in the messages. Each use of a former name adds a
    line to `warnings`; a former and a new name for one field add one to `problems`.
    """
    return _Renaming(problems, warnings).struct(node, cls, field)


class _Renaming:
    def __init__(self, problems: list[str], warnings: list[str]) -> None:
        self.problems = problems
        self.warnings = warnings

    def struct(self, node: Node, cls: Any, path: str) -> Node:
        if not isinstance(node.value, dict):
            return node
        values = dict(node.value)
        for old, former in former_names(cls).items():
            if old in node.value:
                del values[old]
                self.move(node.value, values, old, former, path)
        for known in fields_of(cls):
            name = known.encode_name
            if name in values:
                values[name] = self.value(values[name], known.type, dotted(path, name))
        return replace(node, value=values)

    def move(
        self,
        written: Mapping[str, Node],
        values: dict[str, Node],
        old: str,
        former: Former,
        path: str,
    ) -> None:
        """Set the new field in `values` from the former one, unless it is in `written` as well."""
        node, present = written[old], _at(written, former.path)
        try:
            value = former.value(node)
        except ValueError as error:
            self.problems.append(line(node.place, dotted(path, old), str(error)))
            return
        if value is not None and present is not None:
            both = f"is the old name of `{former.now}`, which {present.place} sets; write only that"
            self.problems.append(line(node.place, path, f"`{old}` {both}"))
            return
        notice = former.notice(f"`{old}`", f"`{former.now}`", value)
        self.warnings.append(line(node.place, path, notice))
        if value is not None:
            _put(values, former.path, value)

    def value(self, node: Node, declared: Any, path: str) -> Node:
        hint = member_for(node.value, without_none(declared))
        bare = peel(hint).bare
        if container_kind(hint) is msgspec.Struct:
            return self.struct(node, bare, path)
        if not get_args(bare) or not isinstance(node.value, dict | list):
            return node
        return self.container(node, node.value, get_args(bare), path)

    def container(
        self, node: Node, written: dict[str, Node] | list[Node], types: Sequence[Any], path: str
    ) -> Node:
        if isinstance(written, list):
            items = [self.value(at, types[0], dotted(path, n)) for n, at in enumerate(written)]
            return replace(node, value=items)
        values = {key: self.value(at, types[-1], dotted(path, key)) for key, at in written.items()}
        return replace(node, value=values)


def _at(values: Mapping[str, Node], path: tuple[str, ...]) -> Node | None:
    """Return the node at `path`; None if there is none."""
    first, *rest = path
    node = values.get(first)
    if node is None or not rest:
        return node
    return _at(node.value, tuple(rest)) if isinstance(node.value, dict) else None


def _put(values: dict[str, Node], path: tuple[str, ...], node: Node) -> None:
    """Set the node at `path`; does nothing if a value on the way is no mapping: a mistake."""
    first, *rest = path
    if not rest:
        values[first] = node
        return
    outer = values.get(first, Node({}, node.place))
    if isinstance(outer.value, dict):
        inner = dict(outer.value)
        _put(inner, tuple(rest), node)
        values[first] = replace(outer, value=inner)
