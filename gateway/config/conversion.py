"""Converts settings as written to frozen Structs and reports all mistakes in one uniform format.

The fields of the configuration and the options of a plugin go through the same `convert`:

    gateway.yaml:7: timeouts.connect: expected a number greater than 0 (seconds) or null, got "fast"
    gateway.yaml:12: plugins.access_log.pth: unknown option; did you mean "path"?

msgspec alone stops at the first mistake and has no line numbers, so this module walks Structs,
lists and mappings itself; msgspec converts each scalar.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import UNSET

from gateway.config.hints import container_kind, fields_of, member_for, peel, without_none
from gateway.config.messages import describe, describe_value, dotted, line, suggest
from gateway.config.node import Node

T = TypeVar("T", bound=msgspec.Struct)


class FieldError(ValueError):
    """Raised by a `__post_init__` or a check; `path` leads from the value to the faulty field."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


def convert(
    node: Node, type_: type[T], *, problems: list[str], field: str = "", noun: str = "field"
) -> T | None:
    """Convert `node` to a `type_`; returns None if it has mistakes and adds each to `problems`.

    `field` is the prefix of the fields' names in the messages. A field that the type lacks is a
    mistake. A Struct may have a classmethod `shorthand(node: Node) -> Node` that expands a shorter
    notation to the full mapping, or raises ValueError with what it expected; a ValueError from
    `__post_init__` is a mistake too.
    """
    made = _Conversion(problems, noun).value(node, type_, field)
    return made if isinstance(made, type_) else None


class _Conversion:
    """One conversion. Each method reports a mistake to `problems` and then returns UNSET.

    `hint` is the type to convert to; `declared` is the type that messages describe, which may
    include `or null`.
    """

    def __init__(self, problems: list[str], noun: str) -> None:
        self.problems = problems
        self.noun = noun

    def value(self, node: Node, declared: Any, path: str) -> Any:
        if peel(declared).note.secret:
            node = msgspec.structs.replace(node, secret=True)
        hint = without_none(declared)
        if node.value is UNSET or hint is Node:
            return UNSET if node.value is UNSET else node
        if hint is not declared and _is_null(node, hint):
            return None
        hint = member_for(node.value, hint)
        made = self.walk(container_kind(hint))(node, hint, declared, path)
        return self.checked(node, made, hint, path)

    def walk(self, kind: type | None) -> Callable[[Node, Any, Any, str], Any]:
        if kind is msgspec.Struct:
            return self.struct
        return self.mapping if kind is dict else self.items if kind is list else self.scalar

    def struct(self, node: Node, hint: Any, declared: Any, path: str) -> Any:
        cls = peel(hint).bare
        try:
            node = cls.shorthand(node) if hasattr(cls, "shorthand") else node
        except ValueError as error:
            return self.report(node, path, f"{error}, got {describe_value(node)}")
        if not isinstance(node.value, dict):
            return self.mismatch(node, declared, path)
        values = self.fields(node, node.value, cls, path)
        if UNSET in values.values():
            return UNSET
        try:
            return cls(**values)
        except FieldError as error:
            return self.report(*_locate(node, path, error), str(error))
        except ValueError as error:
            return self.report(node, path, str(error))

    def fields(self, node: Node, written: dict[str, Node], cls: Any, path: str) -> dict[str, Any]:
        known = {field.encode_name: field for field in fields_of(cls)}
        values = {}
        for key, child in written.items():
            at = dotted(path, key)
            if key in known:
                values[known[key].name] = self.value(_inside(node, child), known[key].type, at)
            else:
                hint = suggest(key, known, self.noun)
                values[key] = self.report(child, at, f"unknown {self.noun}; {hint}")
        for key in known:
            if known[key].required and key not in written:
                need = f"missing; expected {describe(known[key].type)}"
                values[key] = self.report(node, dotted(path, key), need)
        return values

    def mapping(self, node: Node, hint: Any, declared: Any, path: str) -> Any:
        if not isinstance(node.value, dict):
            return self.mismatch(node, declared, path)
        key_hint, value_hint = get_args(peel(hint).bare) or (str, object)
        made = {}
        for key, child in node.value.items():
            # In a secret mapping even a wrong name may be a misplaced secret.
            name = self.value(
                Node(key, child.place, loose=True, secret=node.secret), key_hint, path
            )
            made[name] = self.value(_inside(node, child), value_hint, dotted(path, key))
        return self.container(node, made, hint, declared, path)

    def items(self, node: Node, hint: Any, declared: Any, path: str) -> Any:
        written = _split(node) if node.loose and isinstance(node.value, str) else node.value
        if not isinstance(written, list):
            return self.mismatch(node, declared, path)
        item_hint = (get_args(peel(hint).bare) or (object,))[0]
        made = [
            self.value(_inside(node, child), item_hint, dotted(path, place))
            for place, child in enumerate(written)
        ]
        return self.container(node, made, hint, declared, path)

    def scalar(self, node: Node, hint: Any, declared: Any, path: str) -> Any:
        plain, note = node.plain, peel(hint).note
        if note.ignore_case and isinstance(plain, str):
            plain = plain.lower()
        if note.read is not None:
            plain = note.read(plain)
        try:
            made = msgspec.convert(plain, hint, strict=not node.loose)
        except ValueError:
            return self.mismatch(node, declared, path)
        finite = not isinstance(made, float) or math.isfinite(made)
        return made if finite else self.mismatch(node, declared, path)

    def container(self, node: Node, made: Any, hint: Any, declared: Any, path: str) -> Any:
        """Convert a container of items that are converted already; checks its kind and length."""
        if UNSET in made or (isinstance(made, dict) and UNSET in made.values()):
            return UNSET
        try:
            return msgspec.convert(made, hint)
        except ValueError:
            return self.mismatch(node, declared, path)

    def checked(self, node: Node, made: Any, hint: Any, path: str) -> Any:
        check = peel(hint).note.check
        if made is not UNSET and check is not None:
            try:
                check(made)
            except FieldError as error:
                return self.report(*_locate(node, path, error), str(error))
            except ValueError as error:
                return self.report(node, path, f"{error}, got {describe_value(node)}")
        return made

    def mismatch(self, node: Node, declared: Any, path: str) -> Any:
        return self.report(node, path, f"expected {describe(declared)}, got {describe_value(node)}")

    def report(self, node: Node, path: str, problem: str) -> Any:
        self.problems.append(line(node.place, path, problem))
        return UNSET


def _is_null(node: Node, hint: Any) -> bool:
    """Whether the value means null. A loose "null" does, unless the type is str."""
    loose = node.loose and node.value == "null" and peel(hint).bare is not str
    return loose or node.value is None


def _inside(outer: Node, inner: Node) -> Node:
    if outer.secret and not inner.secret:
        return msgspec.structs.replace(inner, secret=True)
    return inner


def _split(node: Node) -> list[Node]:
    """Split a list written as text with commas, as in an environment variable."""
    texts = [text.strip() for text in str(node.value).split(",")]
    return [msgspec.structs.replace(node, value=text) for text in texts if text]


def _locate(node: Node, path: str, error: FieldError) -> tuple[Node, str]:
    """Return the node of the field that `error` is about, and the field's name."""
    for key in error.path:
        path = dotted(path, key)
        held: dict[Any, Node] | list[Any] | object = node.value
        inside = dict(enumerate(held)) if isinstance(held, list) else held
        node = inside.get(key, node) if isinstance(inside, dict) else node
    return node, path
