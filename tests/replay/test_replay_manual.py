"""docs/replay.md says what the code says."""

import argparse
import re

from gateway_plugins.replay import Link, Replay
from gateway_plugins.replay.cli.commands import add_replay_command
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


def test_replay_manual_lists_each_option_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    subcommands = parser.add_subparsers()
    add_replay_command(subcommands)
    options = subcommands.choices["replay"]._actions
    there = {name for one in options for name in one.option_strings} - {"-h", "--help"}
    named = {name.split()[0] for name in names_in("Replay without the agent")}
    assert named == there
