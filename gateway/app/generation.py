"""One generation of a gateway: the configuration, plugins, routes and lifespans of one moment."""

from collections.abc import Mapping, Sequence
from typing import Self

import msgspec
from starlette.routing import BaseRoute

from gateway.config import Config, is_loopback
from gateway.errors import ConfigError
from gateway.plugins.chains import Chains
from gateway.plugins.lifespan import Lifespan
from gateway.plugins.loader import Plugins


class Generation(msgspec.Struct, frozen=True, eq=False):
    """The parts of a gateway that a reload replaces; `routes` and `lifespans` are by plugin."""

    config: Config
    plugins: Plugins
    chains: Chains
    routes: Mapping[str, Sequence[BaseRoute]] = {}
    lifespans: Mapping[str, Lifespan] = {}

    @classmethod
    def of(cls, config: Config, plugins: Plugins, before: "Generation | None" = None) -> Self:
        """Return a generation without routes and lifespans; failures are counted on from `before`.

        Raises ConfigError if other machines could use the workers without authentication and
        `allow_anonymous` is not set, and if something cannot work in several processes.
        """
        if config.processes > 1:
            _check_shared(config, plugins)
        chains = plugins.chains(before.chains if before is not None else None)
        if not (chains.authenticate or config.allow_anonymous or is_loopback(config.host)):
            raise ConfigError(
                f"host {config.host}: other machines can reach it, and no plugin authenticates "
                "callers, so anybody could use the workers; enable an authenticating plugin, or "
                "listen on 127.0.0.1, or set `allow_anonymous: true`"
            )
        return cls(config, plugins, chains)

    @property
    def warnings(self) -> list[str]:
        """A line for each former name of a field or option that the configuration uses."""
        return [*self.config.warnings, *(w for one in self.plugins.loaded for w in one.warnings)]


def _check_shared(config: Config, plugins: Plugins) -> None:
    """Raise ConfigError with everything that works in one process only."""
    several = f"processes: {config.processes}"
    problems = [
        f"{plugin.place}: plugin {plugin.name} works in one process alone ({plugin.one_process}), "
        f"and there are {several}; leave `processes` at 1, or take the plugin out"
        for plugin in plugins.loaded
        if plugin.one_process
    ]
    if config.storage.in_memory:
        problems.append(
            f"{several}: the database is in memory, where each process would have one of its own; "
            "name a file in `storage.path`, or leave `processes` at 1"
        )
    if problems:
        raise ConfigError(*problems)
