"""The environment and the command line as layers over the file."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway.config.hints import container_kind, fields_of
from gateway.config.messages import line
from gateway.config.model import Config
from gateway.config.node import Node, merge
from gateway.config.renames import Former, former_names, with_new_names
from gateway.kernel import VARIABLE

PREFIX = "GATEWAY_"

OTHER_VARIABLES = frozenset({f"{PREFIX}CONFIG", VARIABLE})
"""Variables that set no field."""

# The command-line options, by field; `--worker` and `--plugin` may be repeated.
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "host": "--host",
        "port": "--port",
        "processes": "--processes",
        "workers": "--worker",
        "plugins": "--plugin",
        "storage.path": "--storage-path",
        "model": "--model",
        "allow_anonymous": "--allow-anonymous",
        "log_level": "--log-level",
        "log_format": "--log-format",
    }
)

# The names of rllm-model-gateway, for users who migrate from it; these stay, without a warning.
_MIGRATED = {
    f"RLLM_GATEWAY_{name.upper()}": (name,)
    for name in ("host", "port", "db_path", "store", "log_level")
}

Path = tuple[str, ...]
"""Names of a field and of the sections around it: `("storage", "path")`."""


def variables() -> dict[str, Path]:
    """Path of the field that each environment variable sets, by the variable's name."""
    found: dict[str, Path] = {}
    for field in fields_of(Config):
        if container_kind(field.type) is msgspec.Struct:
            for inner in fields_of(field.type):
                found[_variable((field.name, inner.name))] = (field.name, inner.name)
        else:
            found[_variable((field.name,))] = (field.name,)
    return found


def former_paths(cls: Any) -> dict[Path, tuple[Path, Former]]:
    """Return the former paths of fields and sections in `cls`, with the present ones."""
    inner = {
        field.name: field.type
        for field in fields_of(cls)
        if container_kind(field.type) is msgspec.Struct
    }
    found: dict[Path, tuple[Path, Former]] = {
        (old,): (former.path, former) for old, former in former_names(cls).items()
    }
    for old, former in former_names(cls).items():
        for field in fields_of(inner[former.now]) if former.now in inner else ():
            found[old, field.name] = (*former.path, field.name), former
    for name, section in inner.items():
        for old_path, (now, former) in former_paths(section).items():
            found[name, *old_path] = (name, *now), former
    return found


def environment(
    environ: Mapping[str, str], used: Collection[str], problems: list[str], warnings: list[str]
) -> Node:
    """Return the fields that `environ` sets, as a layer; reports names that look misspelt.

    `used` are the names that the file refers to: they serve another purpose, so they are skipped.
    """
    known = variables()
    former, present = _former_variables(known)
    sections = {name.partition("__")[0] for name in known}
    strange = environ.keys() - known.keys() - former.keys() - OTHER_VARIABLES - {*used} - sections
    problems.extend(
        f'{name}: unknown variable; did you mean "{present.get(close, close)}"?'
        for name in sorted(strange)
        if name.startswith(PREFIX) and (close := _close(name, known | former))
    )
    theirs = _layer(_set(_MIGRATED, environ), _variable, problems, [])
    ours = _layer(_set(former | known, environ), _variable, problems, warnings)
    return replace(merge(theirs, ours), place="environment")


def command_line(overrides: Mapping[str, object], problems: list[str], warnings: list[str]) -> Node:
    """Return the fields in `overrides` as a layer; null means that the option was not given."""
    given: dict[Path, Node] = {}
    for name, value in overrides.items():
        path = tuple(name.split("."))
        try:
            given |= {} if value is None else {path: Node.of(value, _option(path), loose=True)}
        except ValueError as error:
            problems.append(line(_option(path), name, str(error)))
    layer = replace(_layer(given, _option, problems, warnings), place="command line")
    return with_new_names(layer, Config, problems, warnings)


def _former_variables(known: Collection[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the former path, and the present variable, by each former variable's name.

    As no variable sets a section as a whole, a former section has none either.
    """
    paths: dict[str, Path] = {}
    present: dict[str, str] = {}
    for path, (now, _) in former_paths(Config).items():
        if _variable(now) in known:
            paths[_variable(path)] = path
            present[_variable(path)] = _variable(now)
    return paths, present


def _set(names: Mapping[str, Path], environ: Mapping[str, str]) -> dict[Path, Node]:
    """Return the values of the variables `names` that are set, by path."""
    return {
        path: Node(environ[name], name, loose=True)
        for name, path in names.items()
        if name in environ and not _of_kubernetes(name, environ)
    }


def _layer(
    given: Mapping[Path, Node],
    called: Callable[[Path], str],
    problems: list[str],
    warnings: list[str],
) -> Node:
    """Nest the values under the present names of their fields; `called` names a path's source."""
    former = former_paths(Config)
    layer = Node({}, "")
    for path, node in given.items():
        now, how = former.get(path, (path, None))
        try:
            value = node if how is None else _moved(node, now, how, given, called, warnings)
        except ValueError as error:
            problems.append(line(node.place, "", str(error)))
            continue
        if value is not None:
            layer = merge(layer, _nested(now, value))
    return layer


def _moved(
    node: Node,
    now: Path,
    former: Former,
    given: Mapping[Path, Node],
    called: Callable[[Path], str],
    warnings: list[str],
) -> Node | None:
    """Return the value of a former name for the present one. Raises ValueError."""
    value = former.value(node)
    if value is not None and now in given:
        raise ValueError(f"is the old name of {given[now].place}, which is set; set only that")
    warnings.append(former.notice(node.place, called(now), value))
    return value


def _variable(path: Path) -> str:
    return PREFIX + "__".join(path).upper()


def _option(path: Path) -> str:
    name = ".".join(path)
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def _nested(path: Path, node: Node) -> Node:
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
