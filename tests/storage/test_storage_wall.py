"""Only the engine knows its driver: another engine changes no plugin."""

import ast
from pathlib import Path

import pytest
from support.paths import ROOT

ENGINE = ROOT / "gateway/storage/sqlite"
DRIVERS = {"sqlite3", "sqlite_utils"}
FILES = sorted(
    one
    for folder in ("gateway", "plugins", "examples")
    for one in (ROOT / folder).rglob("*.py")
    if ENGINE not in one.parents
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_the_engine_imports_a_driver(file: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    assert not found & DRIVERS
