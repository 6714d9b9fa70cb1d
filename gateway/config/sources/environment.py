"""The environment and the command line as layers over the file."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from functools import reduce
from types import MappingProxyType

import msgspec

from gateway.config.hints import container_kind
from gateway.config.messages import line
from gateway.config.model import Config
from gateway.config.node import Node, merge

PREFIX = "GATEWAY_"

# The command-line options, by field; `--worker` and `--plugin` may be repeated.
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "host": "--host",
        "port": "--port",
        "workers": "--worker",
        "plugins": "--plugin",
        "db_path": "--db-path",
        "store": "--store",
        "model": "--model",
        "allow_anonymous": "--allow-anonymous",
        "log_level": "--log-level",
        "log_format": "--log-format",
    }
)

# The names of rllm-model-gateway, for users who migrate from it.
_MIGRATED = {
    f"RLLM_GATEWAY_{name.upper()}": (name,)
    for name in ("host", "port", "db_path", "store", "log_level")
}


def variables() -> dict[str, tuple[str, ...]]:
    """Path of the field that each environment variable sets, by the variable's name."""
    found: dict[str, tuple[str, ...]] = {}
    for field in msgspec.structs.fields(Config):
        if container_kind(field.type) is msgspec.Struct:
            for inner in msgspec.structs.fields(field.type):
                name = f"{PREFIX}{field.name}__{inner.name}".upper()
                found[name] = (field.name, inner.name)
        else:
            found[f"{PREFIX}{field.name}".upper()] = (field.name,)
    return found


def environment(environ: Mapping[str, str], used: Collection[str], problems: list[str]) -> Node:
    """Return the fields that `environ` sets, as a layer; reports names that look misspelt.

    `used` are the names that the file refers to: they serve another purpose, so they are skipped.
    """
    known = variables()
    strange = environ.keys() - known.keys() - {f"{PREFIX}CONFIG", *used}
    problems.extend(
        f'{name}: unknown variable; did you mean "{close}"?'
        for name in sorted(strange)
        if name.startswith(PREFIX) and (close := _close(name, known))
    )
    layers = [
        _nested(path, Node(environ[name], name, loose=True))
        for name, path in (_MIGRATED | known).items()
        if name in environ and not _of_kubernetes(name, environ)
    ]
    return reduce(merge, layers, Node({}, "environment"))


def command_line(overrides: Mapping[str, object], problems: list[str]) -> Node:
    """Return the fields in `overrides` as a layer; null means that the option was not given."""
    given: dict[str, Node] = {}
    for name, value in overrides.items():
        option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
        try:
            given |= {} if value is None else {name: Node.of(value, option, loose=True)}
        except ValueError as error:
            problems.append(line(option, name, str(error)))
    return Node(given, "command line")


def _nested(path: tuple[str, ...], node: Node) -> Node:
    for name in reversed(path):
        node = Node({name: node}, node.place)
    return node


def _close(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` may misspell, or None; compared without the prefix."""
    names = [other.removeprefix(PREFIX) for other in known]
    close = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1, cutoff=0.75)
    return PREFIX + close[0] if close else None


def _of_kubernetes(name: str, environ: Mapping[str, str]) -> bool:
    """Whether Kubernetes set the variable, not the user.

    It sets GATEWAY_PORT to tcp://... in each pod beside a service named `gateway`.
    """
    return name.endswith("GATEWAY_PORT") and environ[name].startswith("tcp://")
