"""The command `gateway import-orchestrator`."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import ConfigError
from gateway_plugins.runtime.importing.dotenv import read_dotenv
from gateway_plugins.runtime.importing.found import find, notes
from gateway_plugins.runtime.importing.keys import import_keys
from gateway_plugins.runtime.importing.writing import configuration

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

STATUS = """\
Exit status: 0 all is written; 1 all is written but for some keys or scopes, which standard error
names; 2 nothing is written."""


def add_import_command(subcommands: "Subcommands") -> None:
    """Add the command `import-orchestrator`."""
    parser = subcommands.add_parser(
        "import-orchestrator",
        help="write a configuration from that of the orchestrator `llm-gateway`",
        description="Writes a configuration and a key file from the `.env` and the keys of the "
        "orchestrator. Standard error says what has no effect here, and why.",
        epilog=STATUS,
    )
    parser.add_argument("env", metavar="ENV", type=Path, help="the orchestrator's .env")
    parser.add_argument("foreign_keys", metavar="KEYS", type=Path, help="its key file")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("gateway.yaml"),
        metavar="FILE",
        help="configuration to write (gateway.yaml)",
    )
    parser.add_argument(
        "--keys",
        type=Path,
        default=Path("keys.json"),
        metavar="FILE",
        help="key file to write, with hashed tokens (keys.json)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--redis-url", metavar="URL", help="Redis is not read: says what to do")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.redis_url is not None:
        raise ConfigError(
            "--redis-url: usage, unfinished items and evaluations cannot be brought over from "
            "Redis. Leave it out, let the orchestrator finish its queue first, or write the "
            "bodies of its unfinished requests to a file for `gateway batch import`"
        )
    env, output = options.env, options.output
    if output.absolute() == options.keys.absolute():
        raise ConfigError(f"{output}: --output and --keys name the same file")
    settings = read_dotenv(env)
    found = find(env, settings)
    with _partial(output, configuration(found, str(options.keys)), force=options.force) as partial:
        status = import_keys(
            options.foreign_keys, options.keys, options.settings, force=options.force
        )
        _put(partial, output)
    for line in notes(env, settings, found):
        _tell(line)
    _tell(f"{output}: written; `gateway config check {output}` checks it")
    return status


@contextlib.contextmanager
def _partial(path: Path, text: str, *, force: bool) -> Iterator[Path]:
    """Yield a file beside `path` that has the text, mode 0600, and is gone after the block.

    Raises ConfigError if `path` exists, unless `force`, or cannot be written.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: there is such a file; name another, or give --force")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        _fill(descriptor, path, text)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _fill(descriptor: int, path: Path, text: str) -> None:
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritten(path, error) from None


def _put(partial: Path, path: Path) -> None:
    try:
        partial.replace(path.resolve())
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be written: {error.strerror or error}")


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201  a command line prints
