"""Folders of the project that tests read."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
CONFIGS = ROOT / "configs"
EXAMPLES = ROOT / "examples"
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
