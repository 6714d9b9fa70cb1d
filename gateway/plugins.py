"""Find, configure, check and order plugins, then freeze their hooks into chains.

Nothing is loaded unless the configuration names it. Each Plugins object uses one
pluggy.PluginManager to declare and check hooks; it never calls the hooks of a call.
"""

import contextlib
import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pluggy
from msgspec.structs import replace

from gateway import hookspecs
from gateway.chains import Chains, Failures, Hook
from gateway.config import PluginEntry
from gateway.errors import ConfigError
from gateway.finding import find

SPECS: Mapping[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, "gateway_spec")
}
FOR_CALLS = frozenset(Chains.__struct_fields__) - {"failures"}
"""Hooks that run for each call; the others run at start-up or for the command line."""


class Plugin(msgspec.Struct, frozen=True):
    """A loaded plugin: `object` is the instance, or the module of a bare plugin.

    `entry` is its entry in the configuration, `config` its options as its own Struct.
    """

    name: str
    entry: PluginEntry
    object: Any
    config: Any = None

    @property
    def place(self) -> str:
        return self.entry.source

    @property
    def one_process(self) -> str | None:
        """Reason why it cannot work in several processes; None if it can."""
        why: str | None = getattr(self.object, "one_process", None)
        return why


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

    def kept(self, entry: PluginEntry) -> Plugin | None:
        """Return the plugin of `entry` if its object can stay, else None. Raises ConfigError."""
        for plugin in self.loaded:
            if (plugin.entry.name, plugin.entry.base) != (entry.name, entry.base):
                continue
            if plugin.entry.options == entry.options:
                return replace(plugin, entry=entry)
            if any(hook.plugin == plugin.name for hook in self.hooks["reconfigure"]):
                [config] = _configs(plugin.name, type(plugin.object), entry)
                return replace(plugin, entry=entry, config=config)
        return None

    @contextlib.contextmanager
    def blamed(self, name: str) -> Iterator[None]:
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
                with self.blamed(hook.plugin):
                    given[hook.plugin] = hook.run(*arguments)
        return given

    def new_since(self, before: "Plugins | None") -> frozenset[str]:
        """Names of the plugins whose object is not among those of `before`."""
        known = {id(plugin.object) for plugin in before.loaded} if before is not None else ()
        return frozenset(plugin.name for plugin in self.loaded if id(plugin.object) not in known)

    def chains(self, failures: Failures | None = None) -> Chains:
        """Return the hooks of a call, frozen; if `failures` is given, it continues to count."""
        return Chains(failures or Failures(), **{name: self.hooks[name] for name in FOR_CALLS})


def _load(entry: PluginEntry) -> Plugin:
    name, factory = find(entry)
    if inspect.ismodule(factory):
        if entry.options:
            raise ConfigError(
                f"{entry.source}: plugin {name} is a bare module and takes no options"
            )
        return Plugin(name, entry, factory)
    configs = _configs(name, factory, entry)
    try:
        return Plugin(name, entry, factory(*configs), *configs)
    except Exception as error:  # the operator is to see whatever a plugin's constructor raises
        raise _not_started(entry.source, name, error) from error


def _configs(name: str, factory: Any, entry: PluginEntry) -> list[object]:
    """Constructor arguments of the plugin: its Config, if it has one. Raises ConfigError."""
    problems: list[str] = []
    configs: list[object] = []
    if hasattr(factory, "Config"):
        configs.append(entry.options_as(factory.Config, problems))
    elif entry.options:
        problems.append(f"{entry.source}: plugin {name} takes no options")
    if problems:
        raise ConfigError(*problems)
    return configs


def _not_started(place: str, name: str, error: Exception) -> ConfigError:
    said = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
    return ConfigError(f"{place}: plugin {name} did not start: {said}")


def _misplaced(plugin: Plugin, loaded: Sequence[Plugin]) -> list[str]:
    """Problems with the order: `after` names the plugins that must come before this one."""
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
    """Problems with hooks that pluggy would accept but that would never run, or run wrongly."""
    where = f"{plugin.place}: plugin {plugin.name}"
    problems: list[str] = []
    if hasattr(plugin.object, "reconfigure") and not hasattr(plugin.object, "Config"):
        problems.append(f"{where}: reconfigure would never run: it has no Config")
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
    """Return `impl` as a callable that takes all of the spec's arguments by position."""
    names = tuple(inspect.signature(spec).parameters)
    run: Callable[..., Any] = impl.function
    if impl.argnames == names:
        return run
    wanted = [names.index(name) for name in impl.argnames]
    return lambda *arguments: run(*(arguments[i] for i in wanted))


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
