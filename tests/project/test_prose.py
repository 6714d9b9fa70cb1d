"""The prose says "if" for conditions: the word "where", right for places alone, stays rare."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from support.markdown import pages, prose_lines
from support.paths import ROOT
from support.source_tree import python_files

MAX_RATE = 2.5
"""Occurrences of "where" per 1,000 words."""

RULE = f'"where" occurs at most {MAX_RATE} times per 1,000 words; conditions begin with "if".'


class Line(NamedTuple):
    """One line of prose."""

    file: Path
    number: int
    text: str

    @property
    def words(self) -> list[str]:
        return re.findall(r"[a-z']+", self.text.lower())


def test_the_manuals_rarely_say_where() -> None:
    lines = [
        Line(file, number, re.sub(r"`[^`]*`", "", text))
        for file in pages()
        for number, text in enumerate(prose_lines(file), 1)
    ]
    rate = rate_in(lines)
    assert rate <= MAX_RATE, report(lines)


def test_docstrings_rarely_say_where() -> None:
    lines = [line for file in python_files() for line in docstring_lines(file)]
    rate = rate_in(lines)
    assert rate <= MAX_RATE, report(lines)


def test_docstrings_of_every_kind_are_read(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('"""One."""\nA = 1\n"""Two\n\nwhere."""\ndef f():\n    """Three."""\n')
    found = sorted(docstring_lines(file))
    assert [line[1:] for line in found] == [
        (1, "One."),
        (3, "Two"),
        (4, ""),
        (5, "where."),
        (7, "Three."),
    ]
    assert rate_in(found) == 250


def docstring_lines(file: Path) -> list[Line]:
    """Return the lines of all docstrings in `file`, those below constants included."""
    return [
        Line(file, first + offset, text)
        for first, docstring in docstrings(ast.parse(file.read_text()))
        for offset, text in enumerate(docstring.splitlines())
    ]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each string that stands as a statement and its first line."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def rate_in(lines: list[Line]) -> float:
    words = [word for line in lines for word in line.words]
    return 1000 * words.count("where") / len(words)


def report(lines: list[Line]) -> str:
    found = [
        f"{line.file.relative_to(ROOT)}:{line.number}: {line.text.strip()}"
        for line in lines
        if "where" in line.words
    ]
    return "\n  ".join([f"{RULE} The rate is {rate_in(lines):.2f}.", *found])
