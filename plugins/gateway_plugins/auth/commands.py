"""`gateway keys create|list|rotate|revoke|import`: changes the key file without an editor."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import SCOPES, ConfigError
from gateway_plugins.auth import Auth
from gateway_plugins.auth.editing import added, edit, entries_in, hashed, put_new, revoked, rotated
from gateway_plugins.auth.importing import bounded, foreign_keys
from gateway_plugins.auth.keys import DEFAULT_SCOPES, Entry
from gateway_plugins.auth.listing import line_of, table
from gateway_plugins.auth.times import duration, to_iso, to_unix
from gateway_plugins.auth.tokens import new_token

if TYPE_CHECKING:
    Subcommands = argparse._SubParsersAction[argparse.ArgumentParser]

Options = argparse.Namespace

NAMES = ("auth", "gateway_plugins.auth", "gateway_plugins.auth:Auth")
"""Names that a configuration may use for the plugin."""

EXPIRES = "ISO 8601 (UTC, or with an offset), or a time from now: 12h, 90d"


def add_key_commands(subcommands: "Subcommands") -> None:
    """Add the command `keys`."""
    parser = subcommands.add_parser("keys", help="create, list, rotate, revoke and import API keys")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_create(actions)
    _add_list(actions)
    _add_rotate(actions)
    _add_revoke(actions)
    _add_import(actions)


def _add_create(actions: "Subcommands") -> None:
    parser = actions.add_parser("create", help="create a key and print its secret once")
    parser.add_argument(
        "--id", dest="key_id", required=True, help="owner of the key, shown in logs"
    )
    parser.add_argument(
        "--scope",
        dest="scopes",
        action="append",
        metavar="S",
        help="scope of the key (realtime); repeatable",
    )
    parser.add_argument("--expires", type=_expiry, metavar="TIME", help=EXPIRES)
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        metavar="M",
        help="allowed model (all); repeatable",
    )
    parser.add_argument(
        "--worker",
        dest="workers",
        action="append",
        metavar="W",
        help="allowed worker (all); repeatable",
    )
    parser.add_argument(
        "--label",
        dest="labels",
        action="append",
        type=_label,
        metavar="K=V",
        default=[],
        help="label of the key; repeatable",
    )
    _add_file(parser)
    parser.set_defaults(run=_create)


def _add_list(actions: "Subcommands") -> None:
    parser = actions.add_parser("list", help="print one line per key, without secrets")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    _add_file(parser)
    parser.set_defaults(run=_list)


def _add_rotate(actions: "Subcommands") -> None:
    parser = actions.add_parser("rotate", help="replace the secret of a key and print it once")
    parser.add_argument("key_id", metavar="ID")
    parser.add_argument(
        "--grace",
        type=_duration,
        default=0.0,
        metavar="TIME",
        help="how long the old secret remains valid, such as 1h (0)",
    )
    parser.add_argument(
        "--expires", type=_expiry, metavar="TIME", help=f"new expiry (unchanged): {EXPIRES}"
    )
    _add_file(parser)
    parser.set_defaults(run=_rotate)


def _add_revoke(actions: "Subcommands") -> None:
    parser = actions.add_parser("revoke", help="reject a key from now on")
    parser.add_argument("key_id", metavar="ID")
    _add_file(parser)
    parser.set_defaults(run=_revoke)


def _add_import(actions: "Subcommands") -> None:
    parser = actions.add_parser(
        "import",
        help="write a new key file with the keys of the orchestrator `llm-gateway`",
        description="Writes a new key file, in which the tokens are hashed. Standard error names "
        "the entries and scopes that are left out.",
        epilog="Exit status: 0 all is written; 1 something is left out; 2 nothing is written.",
    )
    parser.add_argument("foreign", metavar="FILE", type=Path, help="the orchestrator's key file")
    parser.add_argument(
        "--force", action="store_true", help="write in place of a key file that exists"
    )
    _add_file(parser)
    parser.set_defaults(run=_import)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, help="YAML or TOML file with the path of the key file"
    )
    parser.add_argument("--file", type=Path, help="key file (keys.json)")


def _expiry(text: str) -> str:
    """Convert a duration from now, or a time, to ISO 8601."""
    try:
        return to_iso(time.time() + duration(text))
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return to_iso(to_unix(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time ({EXPIRES}), got {text!r}") from None


def _duration(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; got {text!r}") from None


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected name=value, got {text!r}")
    return name, value


def _path(options: Options) -> Path:
    if options.file is not None:
        return Path(options.file)
    for plugin in options.settings.plugins:
        if plugin.name in NAMES:
            problems: list[str] = []
            config = plugin.options_as(Auth.Config, problems)
            if problems:
                raise ConfigError(*problems)
            return Path(config.keys_file)
    return Path(Auth.Config().keys_file)


def _create(options: Options) -> int:
    token = new_token()
    entry = Entry(
        id=options.key_id,
        token_sha256=hashed(token),
        scopes=tuple(options.scopes or DEFAULT_SCOPES),
        expires=options.expires,
        models=_some(options.models),
        workers=_some(options.workers),
        labels=dict(options.labels),
    )
    path = _path(options)
    edit(path, lambda entries: added(entries, entry), create=True)
    for scope in sorted({*(entry.scopes or ())} - SCOPES):
        _tell(f"the scope {scope!r} is none of the gateway's own: {', '.join(sorted(SCOPES))}")
    return _hand_out(token, path, options.key_id)


def _some(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _list(options: Options) -> int:
    now = time.time()
    lines = [line_of(entry, now) for entry in entries_in(_path(options))]
    if options.json:
        _print([msgspec.json.encode(line).decode() for line in lines])
    else:
        _print(table(lines))
    return 0


def _rotate(options: Options) -> int:
    token, path = new_token(), _path(options)
    edit(
        path,
        lambda entries: rotated(
            entries,
            options.key_id,
            token,
            now=time.time(),
            grace=options.grace,
            expires=options.expires,
        ),
    )
    return _hand_out(token, path, options.key_id)


def _revoke(options: Options) -> int:
    path = _path(options)
    edit(path, lambda entries: revoked(entries, options.key_id))
    _tell(f"{path.absolute()}: the key {options.key_id!r} is revoked")
    return 0


def _import(options: Options) -> int:
    path, foreign = _path(options), options.foreign
    if _same(path, foreign):
        raise ConfigError(f"{path}: is the file to import; name another with --file")
    found = foreign_keys(foreign)
    put_new(path, found.entries, force=options.force)
    for line in bounded(found.left_out):
        _tell(f"{foreign}: {line}")
    _tell(f"{path.absolute()}: {len(found.entries)} keys are written, their tokens hashed")
    return 1 if found.left_out else 0


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one is missing, and reading tells which
        return False


def _hand_out(token: str, path: Path, id_: str) -> int:
    """Write the secret to standard output, alone on its line, and nowhere else."""
    _tell(f"{path.absolute()}: the key {id_!r} is written; its secret is shown this once:")
    try:
        _print([token])
    except ConfigError as error:
        raise ConfigError(
            f"{error}; the secret is lost: `gateway keys rotate` makes another"
        ) from None
    return 0


def _print(lines: list[str]) -> None:
    """Write lines in UTF-8, whatever the terminal's encoding is."""
    try:
        sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode())
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = None
        raise ConfigError(f"standard output: {error.strerror or error}") from None


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201  a command line prints
