"""The project's modules and the imports between them, read from source without importing it."""

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from support.paths import ROOT

PACKAGES = (ROOT / "gateway", ROOT / "plugins" / "gateway_plugins")
FOLDERS = (ROOT / "gateway", ROOT / "plugins", ROOT / "examples")


class Import(NamedTuple):
    """An import of one module of the project by another."""

    importer: str
    imported: str
    place: str
    """`file:line` of the import."""


def python_files() -> list[Path]:
    """Return every .py file in gateway/, plugins/ and examples/."""
    return sorted(file for folder in FOLDERS for file in folder.rglob("*.py"))


def c_files() -> list[Path]:
    """Return every .c and .h file in the same folders."""
    return sorted(file for folder in FOLDERS for file in folder.rglob("*.[ch]"))


def place(file: Path, line: int = 1) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def modules() -> dict[str, Path]:
    """Return the modules of the core and of the plugins by their full names."""
    return {
        _name(file, package.parent): file for package in PACKAGES for file in package.rglob("*.py")
    }


@cache  # for all rules about them
def imports() -> Sequence[Import]:
    """Return the imports between these modules, those for type checkers included."""
    known = modules()
    return tuple(
        Import(name, imported, place(file, line))
        for name, file in sorted(known.items())
        for imported, line in _imported(ast.parse(file.read_text()), known)
        if imported != name
    )


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of nodes that reach each other along `edges`."""
    reached = {node: _reachable(node, edges) for node in edges}
    found = {
        frozenset(other for other in reached[node] if node in reached.get(other, ()))
        for node in edges
        if node in reached[node]
    }
    return sorted(sorted(circle) for circle in found)


def _name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(tree: ast.Module, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [_module(node.module or "", alias.name, known) for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in dict.fromkeys(names) if name in known)


def _module(package: str, name: str, known: dict[str, Path]) -> str:
    """Return the module that `from package import name` reads: a submodule, or the package."""
    submodule = f"{package}.{name}"
    return submodule if submodule in known else package


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = edges.get(ahead.pop(), set()) - found
        found |= new
        ahead.extend(new)
    return found
