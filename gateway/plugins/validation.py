"""Checks of a loaded plugin: its place in the order, and the form of its hooks."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from gateway.plugins.plugin import SPECS, Plugin


def order_problems(plugin: Plugin, loaded: Sequence[Plugin]) -> list[str]:
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


def hook_problems(plugin: Plugin) -> list[str]:
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
            problems.append(f"{where}: there is no hook {name!r}{_suggestion(name)}")
        else:
            problems.extend(f"{where}: {problem}" for problem in _form_problems(name, value, spec))
    return problems


def _form_problems(name: str, impl: Any, spec: Callable[..., Any]) -> list[str]:
    may_wait, waits = (inspect.iscoroutinefunction(function) for function in (spec, impl))
    problems = []
    if may_wait and (inspect.isgeneratorfunction(impl) or inspect.isasyncgenfunction(impl)):
        problems.append(f"{name} must return its result, not yield it")
    if waits and not may_wait:
        problems.append(f"{name} must be a plain `def`, not `async def`")
    sorting = ("tryfirst", "trylast", "wrapper", "hookwrapper")
    problems.extend(
        f"{name} cannot use {option}: hooks run in the order of the file"
        for option in sorting
        if impl.gateway_impl.get(option)
    )
    return problems


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, SPECS, n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (hooks: {', '.join(sorted(SPECS))})"
