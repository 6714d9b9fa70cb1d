"""Find, configure, check and order plugins, then freeze their hooks into chains.

Nothing is loaded unless the configuration names it. Each Plugins object uses one
pluggy.PluginManager to declare and check hooks; it never calls the hooks of a call.
"""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pluggy
from msgspec.structs import replace

from gateway.config import PluginEntry
from gateway.errors import ConfigError
from gateway.kernel import active
from gateway.plugins import hookspecs
from gateway.plugins.chains import Chains, Failures, Hook
from gateway.plugins.discovery import find
from gateway.plugins.plugin import SPECS, Plugin
from gateway.plugins.validation import hook_problems, order_problems
from gateway.storage.database import Migrations
from gateway.telemetry.trace_context import bound_of

FOR_CALLS = frozenset(Chains.__struct_fields__) & SPECS.keys()
"""Hooks that run for each call; the others run at start-up or for the command line."""

OF_RECORDS = ("observe", "attempt_finished", "call_finished")
"""Hooks that a plugin with `trace_ratio` need not have for calls whose spans are not recorded."""


class Plugins:
    """The plugins of one gateway, configured, checked and in order.

    `hooks` maps each hook of hookspecs to its implementations in the order of the file. An object
    of `before` is kept if its options are unchanged or if it can be reconfigured; it is then listed
    with its new `config`, but `reconfigure` is not called here. Raises ConfigError with every
    problem found.
    """

    def __init__(self, entries: Sequence[PluginEntry], before: "Plugins | None" = None) -> None:
        problems: list[str] = []
        self.loaded: list[Plugin] = []
        for entry in entries:
            try:
                kept = before.kept(entry) if before is not None else None
                self.loaded.append(kept or _load(entry))
            except ConfigError as error:
                problems.extend(error.problems)
        manager = pluggy.PluginManager(hookspecs.NAME)
        manager.add_hookspecs(hookspecs)
        self.hooks: dict[str, tuple[Hook, ...]] = dict.fromkeys(SPECS, ())
        for plugin in self.loaded:
            problems.extend(order_problems(plugin, self.loaded))
            problems.extend(hook_problems(plugin))
            if manager.has_plugin(plugin.name):
                continue  # it is named twice, which its first place has told
            try:
                self._register(manager, plugin)
            except (pluggy.PluginValidationError, ValueError) as error:
                problems.append(f"{plugin.place}: plugin {plugin.name}: {_last_line(error)}")
        if problems:
            raise ConfigError(*dict.fromkeys(problems))

    def _register(self, manager: pluggy.PluginManager, plugin: Plugin) -> None:
        manager.register(plugin.object, plugin.name)
        for caller in manager.get_hookcallers(plugin.object) or ():
            if caller.name in SPECS:
                impl = next(i for i in caller.get_hookimpls() if i.plugin is plugin.object)
                hook = Hook(plugin.name, _in_order(impl, SPECS[caller.name]))
                self.hooks[caller.name] += (hook,)

    def kept(self, entry: PluginEntry) -> Plugin | None:
        """Return the plugin of `entry` if its object can stay, else None. Raises ConfigError."""
        for plugin in self.loaded:
            if (plugin.entry.name, plugin.entry.base) != (entry.name, entry.base):
                continue
            if plugin.entry.options == entry.options:
                return _with_entry(plugin, entry)
            if any(hook.plugin == plugin.name for hook in self.hooks["reconfigure"]):
                [config], warnings = _configs(plugin.name, type(plugin.object), entry)
                return replace(plugin, entry=entry, config=config, warnings=warnings)
        return None

    @contextlib.contextmanager
    def naming_plugin(self, name: str) -> Iterator[None]:
        """Turn any exception raised at start-up into a ConfigError that names the plugin."""
        try:
            yield
        except Exception as error:
            place = next(plugin.place for plugin in self.loaded if plugin.name == name)
            raise _not_started(place, name, error) from error

    def run(self, name: str, *arguments: object, only: Collection[str]) -> dict[str, Any]:
        """Run a start-up hook of the plugins `only`; return results by plugin.

        Raises ConfigError.
        """
        given: dict[str, Any] = {}
        for hook in self.hooks[name]:
            if hook.plugin in only:
                with self.naming_plugin(hook.plugin):
                    given[hook.plugin] = hook.run(*arguments)
        return given

    def migrations(self, *, only: Collection[str]) -> dict[str, Migrations]:
        """Return the tables of the plugins `only`, by plugin. Raises ConfigError."""
        found = self.run("migrations", only=only)
        for name, one in found.items():
            with self.naming_plugin(name):
                if not isinstance(one, Migrations):
                    what = f"{type(one).__module__}.{type(one).__qualname__}"
                    raise TypeError(f"`migrations` must return gateway.Migrations, not {what}")
        return found

    def new_since(self, before: "Plugins | None") -> frozenset[str]:
        """Names of the plugins whose object is not among those of `before`."""
        known = {id(plugin.object) for plugin in before.loaded} if before is not None else ()
        return frozenset(plugin.name for plugin in self.loaded if id(plugin.object) not in known)

    def chains(self, before: Chains | None = None) -> Chains:
        """Return the hooks of a call, frozen; what `before` counts is counted on.

        Raises ConfigError if a `trace_ratio` is no share.
        """
        hooks: dict[str, Any] = {name: self.hooks[name] for name in FOR_CALLS}
        failures = Failures() if before is None else before.failures
        kernel = active() if before is None else before.kernel
        ratios = self._ratios()
        traced = bool(ratios or hooks["sample_trace"])
        plain = Chains(failures, kernel=kernel, traced=traced, **hooks)
        if not ratios:
            return plain
        bound = bound_of(max(ratios.values()))
        if plain.sample_trace:
            return replace(plain, bound=bound)
        left = {name: _without(hooks[name], ratios) for name in OF_RECORDS}
        return replace(plain, bound=bound, unrecorded=replace(plain, **left))

    def _ratios(self) -> dict[str, float]:
        """The `trace_ratio` of each plugin that has one. Raises ConfigError."""
        found = {}
        for hook in self.hooks["trace_ratio"]:
            with self.naming_plugin(hook.plugin):
                found[hook.plugin] = ratio = hook.run()
                if not (isinstance(ratio, int | float) and 0 <= ratio <= 1):
                    raise TypeError(
                        f"`trace_ratio` must return a number from 0 to 1, not {ratio!r}"
                    )
        return found


def _load(entry: PluginEntry) -> Plugin:
    name, factory = find(entry)
    if inspect.ismodule(factory):
        if entry.options:
            raise ConfigError(
                f"{entry.source}: plugin {name} is a bare module and takes no options"
            )
        return Plugin(name, entry, factory)
    configs, warnings = _configs(name, factory, entry)
    try:
        made = factory(*configs)
    except Exception as error:  # the operator is to see whatever a plugin's constructor raises
        raise _not_started(entry.source, name, error) from error
    return Plugin(name, entry, made, next(iter(configs), None), warnings)


def _with_entry(plugin: Plugin, entry: PluginEntry) -> Plugin:
    """Return the plugin with an entry of the same options, whose lines may be others."""
    if not plugin.warnings:
        return replace(plugin, entry=entry)
    _, warnings = _configs(plugin.name, type(plugin.object), entry)
    return replace(plugin, entry=entry, warnings=warnings)


def _configs(name: str, factory: Any, entry: PluginEntry) -> tuple[list[object], tuple[str, ...]]:
    """Return the arguments of the plugin's constructor, and a warning for each former name.

    The only argument is its Config, if it has one. Raises ConfigError.
    """
    problems: list[str] = []
    warnings: list[str] = []
    configs: list[object] = []
    if hasattr(factory, "Config"):
        configs.append(entry.options_as(factory.Config, problems, warnings))
    elif entry.options:
        problems.append(f"{entry.source}: plugin {name} takes no options")
    if problems:
        raise ConfigError(*problems)
    return configs, tuple(warnings)


def _not_started(place: str, name: str, error: Exception) -> ConfigError:
    said = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return ConfigError(f"{place}: plugin {name} did not start: {said}")


def _in_order(impl: Any, spec: Callable[..., Any]) -> Callable[..., Any]:
    """Return `impl` as a callable that takes all of the spec's arguments by position."""
    names = tuple(inspect.signature(spec).parameters)
    run: Callable[..., Any] = impl.function
    if impl.argnames == names:
        return run
    wanted = [names.index(name) for name in impl.argnames]
    return lambda *arguments: run(*(arguments[i] for i in wanted))


def _without(hooks: tuple[Hook, ...], plugins: Collection[str]) -> tuple[Hook, ...]:
    return tuple(hook for hook in hooks if hook.plugin not in plugins)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
