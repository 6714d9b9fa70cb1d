"""docs/architecture.md names every folder, docs/README.md every manual, docstrings real files."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import DOCS, ROOT

PAGE = (DOCS / "architecture.md").read_text()
PATHS = sorted(set(re.findall(r"`((?:gateway|plugins|tests|docs)/[\w./-]*)`", PAGE)))
STEPS = re.findall(r"^\| .+? \| `(gateway/[\w/]+\.py)` \| `(\w+)` \|", PAGE, re.MULTILINE)


def folders_of(root: Path) -> Iterator[str]:
    for file in root.rglob("__init__.py"):
        yield f"{file.parent.relative_to(ROOT)}/"


@pytest.mark.parametrize("root", ["gateway", "plugins/gateway_plugins"])
def test_architecture_page_names_every_folder(root: str) -> None:
    folders = set(folders_of(ROOT / root))
    assert f"{root}/" in folders
    assert folders - set(PATHS) == set()


def test_architecture_page_names_only_existing_paths() -> None:
    assert [path for path in PATHS if not (ROOT / path).exists()] == []
    assert [path for path in PATHS if path.endswith("/") != (ROOT / path).is_dir()] == []


def functions_in(path: str) -> set[str]:
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return {one.name for one in nodes if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_architecture_page_names_an_existing_function_per_step() -> None:
    assert len(STEPS) > 15
    missing = [(path, name) for path, name in STEPS if name not in functions_in(path)]
    assert missing == []


def named_files(text: str) -> set[str]:
    """The Python files that a docstring names: `peers.py`, or at the start of a line."""
    return set(re.findall(r"(?:^|`)([a-z_][\w/]*\.py)\b", text, re.MULTILINE))


@pytest.mark.parametrize("root", ["gateway", "plugins/gateway_plugins"])
def test_docstrings_of_modules_name_only_existing_files(root: str) -> None:
    files = [file for file in (ROOT / root).rglob("*.py") if not file.match("gateway/testing/*")]
    paths = [f"/{file.relative_to(ROOT)}" for file in files]
    missing = {
        (path, name)
        for path, file in zip(paths, files, strict=True)
        for name in named_files(ast.get_docstring(ast.parse(file.read_text())) or "")
        if not any(other.endswith(f"/{name}") for other in paths)
    }
    assert missing == set()


def test_docs_index_names_every_manual() -> None:
    index = (DOCS / "README.md").read_text()
    manuals = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert {name for name in manuals if f"({name})" not in index} == set()
