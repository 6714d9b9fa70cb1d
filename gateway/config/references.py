"""`${NAME}` in a file's texts: the environment's value in its place."""

import re
from collections.abc import Mapping

from msgspec import UNSET

from gateway.config.node import Node
from gateway.config.words import dotted, line

_REFERENCE = re.compile(r"\$(?P<literal>\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


class References:
    """Fills in `environ`, adding a line to `problems` for each name that is not there.

    `$${` is a literal `${`, and what was filled in is not looked at again. A text with a value of
    the environment in it is secret; one that is nothing else is loose, so `port: ${PORT}` works.
    `used` has the names that were found.
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
        filled = _REFERENCE.sub(lambda m: m["literal"] or self.environ[m["name"]], text)
        names = {match["name"] for match in found if match["name"]}
        self.used |= names
        whole = bool(names) and found[0].span() == (0, len(text))
        return Node(filled, node.place, loose=whole, secret=bool(names))

    def problem(self, match: re.Match[str]) -> str:
        if match["literal"] or match["name"] in self.environ:
            return ""
        if match["name"]:
            return (
                f"{match[0]} is not set in the environment; set it, or write $${{ for a plain ${{"
            )
        return "expected the name of a variable in ${...}; write $${ for a plain ${"
