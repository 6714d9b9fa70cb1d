"""Has the plugin `auth` import the keys, by the command that it offers: `gateway keys import`.

Plugins do not import each other. What this one knows of the other is what an operator types, and
the other may be another package, or absent.
"""

import argparse
from importlib.metadata import entry_points
from pathlib import Path

from gateway import Config, ConfigError

COMMANDS = "gateway.commands"
"""The entry-point group of commands, see docs/hooks-reference.md."""


def import_keys(foreign: Path, new: Path, settings: Config, *, force: bool) -> int:
    """Write the keys of `foreign` to `new`, hashed. Returns the exit status: 1, some are left out.

    Raises ConfigError if nothing is written.
    """
    parser = argparse.ArgumentParser(prog="gateway")
    parser.set_defaults(settings=settings)
    _add_command("keys", parser)
    arguments = ["keys", "import", str(foreign), f"--file={new}"]
    options = parser.parse_args([*arguments, *(["--force"] if force else [])])
    return int(options.run(options))


def _add_command(name: str, parser: argparse.ArgumentParser) -> None:
    found = entry_points(group=COMMANDS, name=name)
    try:
        [command] = found
        add = command.load()
    except (ValueError, ImportError, AttributeError):
        raise ConfigError(
            f"keys cannot be imported: no installed plugin has the command `gateway {name}`, "
            "as `auth` does"
        ) from None
    add(parser.add_subparsers(required=True))
