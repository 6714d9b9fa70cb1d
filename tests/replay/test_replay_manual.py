"""docs/replay.md says what the code says."""

import re

from gateway_plugins.replay import Link, Replay
from support.paths import DOCS

MANUAL = (DOCS / "replay.md").read_text()


def names_in(heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    table = MANUAL.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]


def test_replay_manual_lists_each_option_and_its_default() -> None:
    assert names_in("Replay it") == list(Replay.Config.__struct_fields__)
    [ignored] = re.findall(r"^\| `ignore` \| (.+?) \|", MANUAL, re.MULTILINE)
    assert tuple(re.findall(r"`(.+?)`", ignored)) == Replay.Config(path="a").ignore


def test_replay_manual_lists_each_field_of_the_link() -> None:
    assert names_in("The new traces") == list(Link.__struct_fields__)
