"""Markdown files of the project, read as tests need them."""

import re
from pathlib import Path

from support.paths import DOCS, ROOT

FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)")


def pages() -> list[Path]:
    """Return the manuals and README.md."""
    return [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def prose_lines(file: Path) -> list[str]:
    """Return the lines of `file` with fenced blocks blank, so that line numbers stay."""
    lines: list[str] = []
    fence = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        mark = FENCE.match(line)
        lines.append("" if fence or mark else line)
        if fence and mark and mark[1].startswith(fence):
            fence = ""
        elif not fence and mark:
            fence = mark[1]
    return lines


def links(file: Path) -> list[tuple[int, str]]:
    """Return the targets of the links in `file` with their line numbers."""
    return [
        (number, target)
        for number, line in enumerate(prose_lines(file), 1)
        for target in LINK.findall(re.sub(r"`[^`]*`", "`", line))
    ]


def anchors(file: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings in `file`."""
    found: dict[str, int] = {}
    for line in prose_lines(file):
        if heading := HEADING.match(line):
            slug = _slug(heading[1])
            while slug in found:
                found[slug] += 1
                slug = f"{slug}-{found[slug]}"
            found[slug] = 0
    return {*found}


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
