"""Links between the pages of the project lead to files and headings that exist."""

from pathlib import Path

import pytest
from support.markdown import anchors, links, pages
from support.paths import ROOT

PAGES = [*pages(), ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    faults = [
        f"{page.relative_to(ROOT)}:{line}: ({target}): {fault}"
        for line, target in links(page)
        if (fault := fault_of(page, target))
    ]
    assert not faults, "\n  ".join(["A relative link leads to a file and a heading.", *faults])


def test_link_check_finds_missing_files_and_headings(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c\n\n## C\n\n## C\n\n```\n# no heading, [no](link)\n```\n[d](#e)\n")
    assert anchors(page) == {"a-b-c", "c", "c-1"}
    assert links(page) == [(10, "#e")]
    assert [fault_of(page, target) for target in ("#c-1", "page.md#c", "https://x/y")] == [""] * 3
    assert fault_of(page, "#e") == "page.md has no heading #e"
    assert fault_of(page, "other.md") == "there is no such file"


def fault_of(page: Path, target: str) -> str:
    """Return what is wrong with a link on `page`, or an empty string."""
    if "://" in target or target.startswith("mailto:"):
        return ""
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    if not file.exists():
        return "there is no such file"
    if anchor and anchor not in anchors(file):
        return f"{file.name} has no heading #{anchor}"
    return ""
