"""One configuration out of file, environment and command line, of which the later wins."""

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from types import MappingProxyType

from gateway.config.conversion import convert
from gateway.config.environment import command_line, environment
from gateway.config.files import read_file
from gateway.config.model import Config
from gateway.config.node import Node, merge
from gateway.config.references import References
from gateway.errors import ConfigError

NOTHING: Mapping[str, str] = MappingProxyType({})


def load(
    file: Path | None = None,
    environ: Mapping[str, str] = NOTHING,
    overrides: Mapping[str, object] = NOTHING,
) -> Config:
    """The configuration in `file`, under that of `environ`, under that of `overrides`.

    `overrides` are fields by name, `timeouts` and `limits` as mappings; null is an option that was
    not given. Mappings merge key by key, lists replace. Raises ConfigError with all that is wrong.
    """
    problems: list[str] = []
    references = References(environ, problems)
    layers = (
        _file(file, references, problems) if file is not None else Node({}, "defaults"),
        environment(environ, references.used, problems),
        command_line(overrides, problems),
    )
    config = convert(reduce(merge, layers), Config, problems=problems)
    if config is None or problems:
        # What is wrong in an anchor is wrong again in each of its aliases.
        raise ConfigError(*dict.fromkeys(problems))
    return config


def _file(file: Path, references: References, problems: list[str]) -> Node:
    try:
        return references.fill(read_file(file, problems))
    except ConfigError as error:
        problems.extend(error.problems)
        return Node({}, str(file))
