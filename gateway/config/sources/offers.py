"""Settings that come with a flag of the command line, below the configuration file."""

from collections.abc import Mapping
from types import MappingProxyType

from msgspec.structs import replace

from gateway.config.conversion import convert
from gateway.config.model import Config, PluginEntry
from gateway.config.node import Node, merge

Offers = Mapping[str, Mapping[str, object]]
"""By flag, such as `--grpc`: what a configuration file would hold in its place."""

NO_OFFERS: Offers = MappingProxyType({})


def fields_of_offers(offers: Offers) -> Node:
    """Return the lowest layer: all that is offered but plugins. Raises ValueError."""
    layer = Node({}, "defaults")
    for flag, offered in offers.items():
        fields = {name: value for name, value in offered.items() if name != "plugins"}
        layer = merge(layer, Node.of(fields, flag))
    return layer


def with_offered_plugins(config: Config, offers: Offers, problems: list[str]) -> Config:
    """Return `config` with the plugins that are offered.

    A plugin that `config` names keeps its place and its options, over those that are offered.
    """
    for flag, offered in offers.items():
        written = Node.of({"plugins": offered.get("plugins", ())}, flag)
        found = convert(written, Config, problems=problems)
        for entry in () if found is None else found.plugins:
            config = replace(config, plugins=_with(config.plugins, entry))
    return config


def _with(plugins: tuple[PluginEntry, ...], offered: PluginEntry) -> tuple[PluginEntry, ...]:
    if all(entry.name != offered.name for entry in plugins):
        return (*plugins, offered)
    return tuple(
        _over(offered, entry) if entry.name == offered.name else entry for entry in plugins
    )


def _over(offered: PluginEntry, entry: PluginEntry) -> PluginEntry:
    options = {**offered.options, **entry.options}
    if offered.written is None or entry.written is None:
        return replace(entry, options=options)
    return replace(entry, options=options, written=merge(offered.written, entry.written))
