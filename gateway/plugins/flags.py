"""Flags of the command line that installed packages offer, such as `gateway serve --grpc`.

A package names an object in the entry-point group `gateway.flags`. The flag of that name runs the
plugin of that name, configured by the environment where no file does, and by itself in `demo`.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Protocol

GROUP = "gateway.flags"


class Flag(Protocol):
    """What a package offers by a flag; a module may be one. Each raises ConfigError."""

    def settings(self, environ: Mapping[str, str]) -> Mapping[str, object]:
        """Return what a configuration file would hold; whatever names a field besides wins.

        Values that `environ` gave are Variables, so that messages name them.
        """

    def demo_options(self, environ: Mapping[str, str]) -> Mapping[str, object]:
        """Return the options of the plugin in `gateway demo`."""

    def demo_examples(self, environ: Mapping[str, str]) -> str:
        """Return commands to try against that demo."""

    def simulator_examples(self, url: str, model: str) -> str:
        """Return commands to try against a simulated worker at `url` that serves `model`."""


def names() -> list[str]:
    """Return the names of all flags; loads none of them."""
    return sorted(entry_points(group=GROUP).names)


def flag(name: str) -> Flag:
    """Load what a flag stands for."""
    found: Flag = entry_points(group=GROUP)[name].load()
    return found


def settings_of(
    given: Iterable[str], environ: Mapping[str, str]
) -> dict[str, Mapping[str, object]]:
    """Return the settings of each flag in `given`, by the flag as it is written."""
    return {f"--{name}": flag(name).settings(environ) for name in given}
