"""Replaces `${NAME}` in a file's texts by the environment's value, or by the file's default."""

import re
from collections.abc import Mapping

from msgspec import UNSET

from gateway.config.messages import dotted, line
from gateway.config.node import Node

_REFERENCE = re.compile(
    r"\$(?P<literal>\$\{)"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<sign>[-?])(?P<word>[^{}]*))?\}"
    r"|\$\{"
)


class References:
    """Fills in values of `environ` and adds a line to `problems` for each missing name.

    `${NAME:-default}` and `${NAME:?what to set}` are as in a shell: an empty value counts as none.
    `$${` is a literal `${`; inserted values are not expanded again. A text that contains a value of
    the environment is secret, and its place names the variables. A text that consists of a single
    reference is loose, so `port: ${PORT}` works. `used` contains the referenced names.
    """

    def __init__(self, environ: Mapping[str, str], problems: list[str]) -> None:
        self.environ = environ
        self.problems = problems
        self.used: set[str] = set()

    def fill(self, node: Node, path: str = "") -> Node:
        match node.value:
            case dict():
                inner = {key: self.fill(at, dotted(path, key)) for key, at in node.value.items()}
                return Node(inner, node.place)
            case list():
                items = [self.fill(at, dotted(path, n)) for n, at in enumerate(node.value)]
                return Node(items, node.place)
            case str() if "${" in node.value:
                return self.text(node, node.value, path)
            case _:
                return node

    def text(self, node: Node, text: str, path: str) -> Node:
        found = list(_REFERENCE.finditer(text))
        wrong = [problem for match in found if (problem := self.problem(match))]
        if wrong:
            self.problems.extend(line(node.place, path, problem) for problem in wrong)
            return Node(UNSET, node.place)
        filled = _REFERENCE.sub(self.value, text)
        names = {match["name"]: "" for match in found if match["name"]}
        self.used |= names.keys()
        taken = [name for name in names if self.environ.get(name)]
        place = f"{node.place} ({', '.join(taken)})" if taken else node.place
        whole = bool(names) and found[0].span() == (0, len(text))
        return Node(filled, place, loose=whole, secret=bool(taken))

    def value(self, match: re.Match[str]) -> str:
        if match["literal"]:
            return match["literal"]
        value = self.environ.get(match["name"], "")
        return value if value or match["sign"] != "-" else match["word"]

    def problem(self, match: re.Match[str]) -> str:
        name = match["name"]
        if match["sign"] == "?" and not self.environ.get(name):
            said = match["word"] or "it is required"
            return f"${{{name}}} is not set in the environment, or empty: {said}"
        if match["literal"] or match["sign"] or name in self.environ:
            return ""
        if name:
            return (
                f"{match[0]} is not set in the environment; set it, or write $${{ for a plain ${{"
            )
        return "expected the name of a variable in ${...}; write $${ for a plain ${"
