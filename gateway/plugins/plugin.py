"""A loaded plugin, and the hooks that a plugin may implement."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.config import PluginEntry
from gateway.plugins import hookspecs

SPECS: Mapping[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, "gateway_spec")
}


class Plugin(msgspec.Struct, frozen=True):
    """A loaded plugin: `object` is the instance, or the module of a bare plugin.

    `entry` is its entry in the configuration, `config` its options as its own Struct, and
    `warnings` has a line for each former name among them.
    """

    name: str
    entry: PluginEntry
    object: Any
    config: Any = None
    warnings: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return self.entry.source

    @property
    def one_process(self) -> str | None:
        """Reason why it cannot work in several processes; None if it can."""
        why: str | None = getattr(self.object, "one_process", None)
        return why
