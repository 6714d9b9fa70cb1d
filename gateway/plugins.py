"""Find, configure, check and order plugins, then freeze their hooks into chains.

Nothing is loaded unless the configuration names it. One pluggy.PluginManager belongs to one Plugins
object and serves to declare and to check; it never calls the hooks of a call.
"""

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pluggy

from gateway import hookspecs
from gateway.chains import Chains, Failures, Hook
from gateway.config import PluginEntry
from gateway.errors import ConfigError
from gateway.finding import find

SPECS: Mapping[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, "gateway_spec")
}
FOR_CALLS = frozenset(Chains.__struct_fields__) - {"failures"}
"""The hooks that run for each call; the others run at start-up or for the command line."""


class Plugin(msgspec.Struct, frozen=True):
    """A loaded plugin: `object` is the instance, or the module of a bare one."""

    name: str
    place: str
    object: Any


class Plugins:
    """The plugins of one gateway, configured, checked and in order.

    `hooks` has, for each hook of hookspecs, its implementations in the order of the file. Raises
    ConfigError with every problem found.
    """

    def __init__(self, entries: Sequence[PluginEntry]) -> None:
        problems: list[str] = []
        self.loaded: list[Plugin] = []
        for entry in entries:
            try:
                self.loaded.append(_load(entry))
            except ConfigError as error:
                problems.extend(error.problems)
        manager = pluggy.PluginManager(hookspecs.NAME)
        manager.add_hookspecs(hookspecs)
        self.hooks: dict[str, tuple[Hook, ...]] = dict.fromkeys(SPECS, ())
        for plugin in self.loaded:
            problems.extend(_misplaced(plugin, self.loaded))
            problems.extend(_misused(plugin))
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

    @contextlib.contextmanager
    def blamed(self, name: str) -> Iterator[None]:
        """Whatever is raised at start-up becomes a ConfigError that names the plugin."""
        try:
            yield
        except Exception as error:
            place = next(plugin.place for plugin in self.loaded if plugin.name == name)
            raise _not_started(place, name, error) from error

    def chains(self) -> Chains:
        """The hooks of a call, frozen."""
        return Chains(Failures(), **{name: self.hooks[name] for name in FOR_CALLS})


def _load(entry: PluginEntry) -> Plugin:
    name, factory = find(entry)
    if inspect.ismodule(factory):
        if entry.options:
            raise ConfigError(
                f"{entry.source}: plugin {name} is a bare module and takes no options"
            )
        return Plugin(name, entry.source, factory)
    problems: list[str] = []
    arguments = []
    if hasattr(factory, "Config"):
        arguments.append(entry.options_as(factory.Config, problems))
    elif entry.options:
        problems.append(f"{entry.source}: plugin {name} takes no options")
    if problems:
        raise ConfigError(*problems)
    try:
        return Plugin(name, entry.source, factory(*arguments))
    except Exception as error:  # whatever a plugin's constructor raises is the operator's to read
        raise _not_started(entry.source, name, error) from error


def _not_started(place: str, name: str, error: Exception) -> ConfigError:
    said = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return ConfigError(f"{place}: plugin {name} did not start: {said}")


def _misplaced(plugin: Plugin, loaded: Sequence[Plugin]) -> list[str]:
    """What stands in the wrong order: `after` names the plugins that must come before this one."""
    later = [other.name for other in loaded[loaded.index(plugin) + 1 :]]
    after = getattr(plugin.object, "after", ())
    problems = [
        f"{plugin.place}: plugin {plugin.name} must come after {name}: move it below {name}"
        for name in ((after,) if isinstance(after, str) else after)
        if name in later
    ]
    if plugin.name in later:
        problems.append(f"{plugin.place}: plugin {plugin.name} is named twice")
    return problems


def _misused(plugin: Plugin) -> list[str]:
    """Hooks that pluggy would take and that would then never run, or run wrongly."""
    where = f"{plugin.place}: plugin {plugin.name}"
    problems: list[str] = []
    for name, value in inspect.getmembers_static(plugin.object, callable):
        options = getattr(value, "gateway_impl", None)
        spec = SPECS.get((options or {}).get("specname") or name)
        if options is None:
            if spec is not None and value is not spec and not name.startswith("_"):
                problems.append(f"{where}: {name} is a hook's name; mark it with @hookimpl")
        elif spec is None:
            problems.append(f"{where}: there is no hook {name!r}{_did_you_mean(name)}")
        else:
            problems.extend(f"{where}: {problem}" for problem in _misshapen(name, value, spec))
    return problems


def _misshapen(name: str, impl: Any, spec: Callable[..., Any]) -> list[str]:
    wanted, given = (inspect.iscoroutinefunction(function) for function in (spec, impl))
    problems = []
    if wanted and not given:
        problems.append(f"{name} must be `async def`")
    if given and not wanted:
        problems.append(f"{name} must be a plain `def`, not `async def`")
    sorting = ("tryfirst", "trylast", "wrapper", "hookwrapper")
    problems.extend(
        f"{name} cannot use {option}: hooks run in the order of the file"
        for option in sorting
        if impl.gateway_impl.get(option)
    )
    return problems


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, SPECS, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (hooks: {', '.join(sorted(SPECS))})"


def _in_order(impl: Any, spec: Callable[..., Any]) -> Callable[..., Any]:
    """`impl` callable with the spec's arguments by position, whichever of them it takes."""
    names = tuple(inspect.signature(spec).parameters)
    run: Callable[..., Any] = impl.function
    if impl.argnames == names:
        return run
    wanted = [names.index(name) for name in impl.argnames]
    return lambda *arguments: run(*(arguments[i] for i in wanted))


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
