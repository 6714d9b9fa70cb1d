"""Merges offers, file, environment and command line into one configuration; the later wins."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec.structs import replace

from gateway.config.conversion import convert
from gateway.config.model import MEMORY, Config
from gateway.config.node import Node, merge
from gateway.config.renames import with_new_names
from gateway.config.sources.environment import command_line, environment
from gateway.config.sources.files import read_file
from gateway.config.sources.offers import NO_OFFERS, Offers, fields_of_offers, with_offered_plugins
from gateway.config.sources.references import References
from gateway.errors import ConfigError

NOTHING: Mapping[str, str] = MappingProxyType({})


def load(
    file: Path | None = None,
    environ: Mapping[str, str] = NOTHING,
    overrides: Mapping[str, object] = NOTHING,
    offers: Offers = NO_OFFERS,
) -> Config:
    """Load the configuration: `overrides` over `environ` over `file` over `offers`.

    `overrides` are fields by name (`storage.path`, too), sections as mappings; null means that the
    option was not given. Mappings merge key by key, lists replace; but plugins of `offers` are
    added where no other source names them. Each layer but `offers` may use former names; `warnings`
    of the result has a line for each. Raises ConfigError with all mistakes.
    """
    problems: list[str] = []
    warnings: list[str] = []
    references = References(environ, problems)
    lowest = _file(file, references, problems) if file is not None else Node({}, "defaults")
    lowest = with_new_names(lowest, Config, problems, warnings)
    lowest = merge(fields_of_offers(offers), lowest)
    variables = environment(environ, references.used, problems, warnings)
    stores = [environ.get(f"{prefix}_STORE") for prefix in ("RLLM_GATEWAY", "GATEWAY")]
    if any(map(_is_file, stores)):
        lowest = _out_of_memory(lowest)
    if _is_file(overrides.get("store")):
        lowest, variables = _out_of_memory(lowest), _out_of_memory(variables)
    above = merge(variables, command_line(overrides, problems, warnings))
    config = convert(merge(lowest, above), Config, problems=problems)
    config = config and with_offered_plugins(config, offers, problems)
    if config is None or problems:
        raise ConfigError(*problems)
    config = replace(config, warnings=tuple(warnings))
    if file is None or (isinstance(above.value, dict) and "plugins" in above.value):
        return config
    return _beside(file, config)


def _is_file(store: object) -> bool:
    """Whether this value of the former field `store` asks for a file."""
    return isinstance(store, str) and store.lower() == "sqlite"


def _out_of_memory(layer: Node) -> Node:
    """Return the layer without a `storage.path` in memory, which a later `store: sqlite` undoes."""
    fields = layer.value if isinstance(layer.value, dict) else {}
    storage = fields.get("storage")
    if storage is None or not isinstance(storage.value, dict):
        return layer
    kept = {name: node for name, node in storage.value.items() if node.value != MEMORY}
    return replace(layer, value={**fields, "storage": replace(storage, value=kept)})


def _beside(file: Path, config: Config) -> Config:
    """Return `config` with the folder of `file` as the base of its plugins' files."""
    base = str(file.parent)
    return replace(config, plugins=tuple(replace(entry, base=base) for entry in config.plugins))


def _file(file: Path, references: References, problems: list[str]) -> Node:
    try:
        return references.fill(read_file(file, problems))
    except ConfigError as error:
        problems.extend(error.problems)
        return Node({}, str(file))
