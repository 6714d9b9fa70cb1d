"""Reads YAML into a tree that keeps the line of each value.

The text is composed into YAML nodes and never constructed into objects. So the lines are known,
duplicate keys are detected, and no tag can create an object.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import yaml
from msgspec import UNSET, UnsetType

from gateway.config.messages import dotted, line, quote
from gateway.config.node import MAX_DEPTH, TOO_DEEP, Node, depth_of
from gateway.errors import ConfigError

MAX_VALUES = 50_000

# The libyaml loader is six times as fast; PyYAML has it if it was built with libyaml.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TRUTH = dict.fromkeys(("yes", "true", "on"), True) | dict.fromkeys(("no", "false", "off"), False)

Scalar = None | bool | int | float | str


def yaml_tree(text: str, name: str, problems: list[str]) -> Node:
    """Read the one document in `text`; a null node if there is none.

    Adds a line to `problems` for each value that is not allowed, and replaces the value by UNSET.
    Raises ConfigError if the text is not YAML, nests too deep, or has too many values.
    """
    try:
        _refuse_depth(text, name, _Loader)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        _blame_depth(text, name, error.problem_mark)
        # str(error) quotes the file, which may hold a key.
        said = ", ".join(filter(None, (error.context, error.problem)))
        place = _place(name, error.problem_mark or error.context_mark)
        raise ConfigError(f"{place}: not YAML: {said}") from None
    except yaml.YAMLError:
        # Only the reader's errors, about characters, have no mark.
        raise ConfigError(f"{name}: not YAML: a character in it is forbidden there") from None
    if root is None:
        return Node(None, name)
    return _Tree(name, problems).node(root, f"{name}:1", "", MAX_DEPTH)


def _refuse_depth(text: str, name: str, loader: type[yaml.SafeLoader]) -> None:
    """Raise ConfigError if the text nests too deep.

    Checked on the events, which are parsed without recursion; composing recurses.
    """
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            place = _place(name, event.start_mark)
            raise ConfigError(f"{place}: {TOO_DEEP}")


def _blame_depth(text: str, name: str, mark: Any) -> None:
    """Raise ConfigError if the text at which libyaml stopped is nested too deep.

    libyaml reads over a thousand brackets before its first event, and may have a limit of its own.
    PyYAML's own reader has none; it reads the text again, but only if nesting may be the reason.
    """
    read = text if mark is None else text[: mark.index + 1]
    if depth_of(re.findall(r"[\[\]{}]", read)) > MAX_DEPTH:
        with contextlib.suppress(yaml.YAMLError):
            _refuse_depth(read, name, yaml.SafeLoader)


class _Tree:
    """Converts composed YAML nodes to Nodes."""

    def __init__(self, name: str, problems: list[str]) -> None:
        self.name = name
        self.problems = problems
        self.values = 0

    def node(self, written: yaml.Node, place: str, path: str, room: int) -> Node:
        self.values += 1
        if room < 0:
            raise ConfigError(f"{place}: an alias nests too deep, or in itself")
        if self.values > MAX_VALUES:
            raise ConfigError(f"{place}: more than {MAX_VALUES} values, aliases resolved")
        match written:
            case yaml.ScalarNode():
                return Node(self.scalar(written, place, path), place)
            case yaml.SequenceNode() if written.tag == f"{_TAG}seq":
                return self.items(written, place, path, room)
            case yaml.MappingNode() if written.tag == f"{_TAG}map":
                return self.mapping(written, place, path, room)
        return Node(self.refuse_tag(written, place, path), place)

    def items(self, written: yaml.SequenceNode, place: str, path: str, room: int) -> Node:
        made = [
            self.node(item, _place(self.name, item.start_mark), dotted(path, index), room - 1)
            for index, item in enumerate(written.value)
        ]
        return Node(made, place)

    def mapping(self, written: yaml.MappingNode, place: str, path: str, room: int) -> Node:
        own: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for key, value in written.value:
            # The key's line, not the value's: a mapping or a long text begins on the next line.
            at = _place(self.name, key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                self.report(at, path, "expected the name of a field before the colon")
                continue
            inner = dotted(path, key.value)
            made = self.node(value, at, inner, room - 1)
            if key.tag == f"{_TAG}merge":
                inherited |= self.merged(made, inner)
            elif key.value in own:
                self.report(at, inner, f"written before, at {own[key.value].place}")
            else:
                own[key.value] = made
        return Node(inherited | own, place)

    def merged(self, made: Node, path: str) -> dict[str, Node]:
        """Return the keys that `<<` merges in, from one mapping or several; the first wins."""
        inherited: dict[str, Node] = {}
        for source in reversed(made.value if isinstance(made.value, list) else [made]):
            if isinstance(source.value, dict):
                inherited |= source.value
            else:
                self.report(source.place, path, "expected the alias of a mapping")
        return inherited

    def scalar(self, written: yaml.ScalarNode, place: str, path: str) -> Scalar | UnsetType:
        text: str = written.value
        match written.tag.removeprefix(_TAG):
            case "null":
                return None
            case "bool":
                return _TRUTH.get(text.lower(), text)
            case "int":
                return _number(text, lambda digits: int(digits, base=0))
            case "float":
                return _number(text, lambda digits: float(re.sub(r"\.(inf|nan)", r"\1", digits)))
            case "str" | "timestamp" | "value" | "merge":
                return text
        return self.refuse_tag(written, place, path)

    def refuse_tag(self, written: yaml.Node, place: str, path: str) -> UnsetType:
        return self.report(place, path, f"the tag {quote(written.tag)} is not accepted here")

    def report(self, place: str, path: str, problem: str) -> UnsetType:
        self.problems.append(line(place, path, problem))
        return UNSET


def _place(name: str, mark: Any) -> str:
    return name if mark is None else f"{name}:{mark.line + 1}"


def _number(text: str, make: Callable[[str], float]) -> float | str:
    """Convert a number. YAML 1.1's 1:30 (ninety) and 010 (eight) stay text, which is rejected."""
    try:
        return make(text.replace("_", "").lower())
    except ValueError:
        return text
