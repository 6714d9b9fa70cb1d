"""Builds of the gateway: the checkout that this is part of, and commits before it."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from support.paths import ROOT

from bench.programs import on_path, said
from bench.stack import COMMAND, NAME, source
from bench.systems import Command, Place, System, named

KERNEL = Path("gateway/kernel/build.py")
"""Builds the native part of a checkout, if it has one."""


IN_PYTHON = {"GATEWAY_KERNEL": "python"}
"""The setting with which a gateway does without its native part."""


class Build(msgspec.Struct, frozen=True):
    """A commit by its short name with the folder in which it is checked out, or another way to run
    this one; `settings` are of its environment."""

    name: str
    folder: Path
    settings: Mapping[str, str] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {**source(self.folder), **self.settings}

    def version(self) -> str:
        """What it says of itself."""
        text = said([*COMMAND, "--version"], self.folder, self.environment)
        return text.removeprefix(NAME).strip()


PRESENT = Build("", ROOT)
UNCOMPILED = Build("python", ROOT, IN_PYTHON)


def present() -> Build:
    """This one, made ready; without a compiler, it runs without its native part."""
    _compile(ROOT)
    return PRESENT


def build_of(folder: Path, ref: str, repository: Path = ROOT) -> Build:
    """In the folder of programs. Raises ConfigError if there is no such commit."""
    git = [on_path("git", "git"), "-C", str(repository)]
    name = said([*git, "rev-parse", "--short", "--verify", f"{ref}^{{commit}}"])
    where = folder.absolute() / f"ref-{name}"
    done = where / ".checked-out"
    if not done.exists():
        shutil.rmtree(where, ignore_errors=True)  # what was begun
        said([*git, "worktree", "prune"])
        said([*git, "worktree", "add", "--quiet", "--detach", str(where), name])
        done.touch()
    _compile(where, "--strict")
    return Build(name, where)


def _compile(checkout: Path, *options: str) -> None:
    """Leaves alone what was built before."""
    if (checkout / KERNEL).exists():
        said([sys.executable, str(checkout / KERNEL), *options])


def at(build: Build, system: System) -> System:
    """The same system as that build makes it, with the packages that are installed now."""
    make = system.command
    assert make is not None, "the worker is no build of the gateway"

    def command(place: Place) -> Command:
        made = make(place)
        environment = {**made.environment, **build.environment}
        return msgspec.structs.replace(made, environment=environment)

    return msgspec.structs.replace(system, name=named(system.name, build.name), command=command)
