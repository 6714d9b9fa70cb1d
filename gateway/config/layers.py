"""One configuration out of file, environment and command line, of which the later wins."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec.structs import replace

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
    lowest = _file(file, references, problems) if file is not None else Node({}, "defaults")
    above = merge(
        environment(environ, references.used, problems), command_line(overrides, problems)
    )
    config = convert(merge(lowest, above), Config, problems=problems)
    if config is None or problems:
        raise ConfigError(*problems)
    if file is None or (isinstance(above.value, dict) and "plugins" in above.value):
        return config
    return _beside(file, config)


def _beside(file: Path, config: Config) -> Config:
    """`config` with its plugins' files looked for in the folder of `file`."""
    base = str(file.parent)
    return replace(config, plugins=tuple(replace(entry, base=base) for entry in config.plugins))


def _file(file: Path, references: References, problems: list[str]) -> Node:
    try:
        return references.fill(read_file(file, problems))
    except ConfigError as error:
        problems.extend(error.problems)
        return Node({}, str(file))
