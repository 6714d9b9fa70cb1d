"""Only the engine knows its driver: another engine changes no plugin."""

import ast
from pathlib import Path

from support.paths import ROOT

ENGINE = ROOT / "gateway/storage/sqlite"
DRIVERS = {"sqlite3", "sqlite_utils"}
FILES = sorted(
    one
    for folder in ("gateway", "plugins", "examples")
    for one in (ROOT / folder).rglob("*.py")
    if ENGINE not in one.parents
)


def test_only_the_engine_imports_a_driver() -> None:
    assert [str(file.relative_to(ROOT)) for file in FILES if _imported(file) & DRIVERS] == []


def _imported(file: Path) -> set[str]:
    """The packages that a file imports; nothing if it names no driver, to save the parsing."""
    text, found = file.read_text(), set()
    if not any(driver in text for driver in DRIVERS):
        return set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.partition(".")[0])
    return found
