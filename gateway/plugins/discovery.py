"""Finds the plugin that the configuration names: an entry point, a module, a class, a file."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from gateway.config import PluginEntry
from gateway.errors import ConfigError

GROUP = "gateway.plugins"
"""The entry-point group in which installed packages offer plugins by name."""


def find(entry: PluginEntry) -> tuple[str, Any]:
    """Return the plugin's name, and its class or (if it has none) module. Raises ConfigError."""
    try:
        name, found = _find(entry.name, Path(entry.base))
        if inspect.ismodule(found):
            found = _plugin_of(found, entry.name)
        elif not _has_hooks(found):
            raise ConfigError(f"plugin {entry.name!r}: nothing in it is marked with @hookimpl")
    except ConfigError as error:
        raise ConfigError(*(f"{entry.source}: {problem}" for problem in error.problems)) from error
    except Exception as error:  # a plugin may raise anything while it is imported
        raise ConfigError(f"{entry.source}: plugin {entry.name!r} {_failure(error)}") from error
    return name, found


def _find(name: str, base: Path) -> tuple[str, Any]:
    offered = _offered(tuple((place, _changed(place)) for place in sys.path))
    if name in offered:
        return name, offered[name].load()
    place, _, attribute = name.partition(":")
    if place.endswith(".py") or "/" in place:
        short, module = Path(place).stem, _file(base / place)
    else:
        short, module = place.rpartition(".")[2], _module(place, sorted(offered))
    if not attribute:
        return short, module
    found = getattr(module, attribute, None)
    if not inspect.isclass(found):
        raise ConfigError(f"plugin {name!r}: {place} has no class {attribute!r}")
    return attribute, found


@lru_cache(maxsize=1)  # for several plugins: to read what each package offers takes some ms
def _offered(places: tuple[tuple[str, int], ...]) -> Mapping[str, EntryPoint]:
    """Return the plugins by name of the packages in `places`, each with when it has changed."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _changed(place: str) -> int:
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"plugin {str(path)!r}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"gateway_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plugin {str(path)!r}: a plugin's file must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # typing and msgspec resolve annotations here
    spec.loader.exec_module(module)
    return module


def _module(name: str, offered: list[str]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        close = difflib.get_close_matches(name, offered, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"installed: {', '.join(offered)}"
        raise ConfigError(
            f"unknown plugin {name!r}; {hint} (a name, a module, module:Class or ./file.py)"
        ) from None


def _plugin_of(module: ModuleType, name: str) -> Any:
    """Return the module if it has hooks itself, else its only class with hooks."""
    classes = [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and member.__module__ == module.__name__ and _has_hooks(member)
    ]
    bare = _has_hooks(module)
    if bare and not classes:
        return module
    if len(classes) == 1 and not bare:
        return classes[0]
    if not classes:
        raise ConfigError(f"plugin {name!r}: nothing in it is marked with @hookimpl")
    choice = " or ".join(f"{name}:{found.__name__}" for found in classes)
    rest = "; its @hookimpl functions need a file of their own" if bare else ""
    raise ConfigError(f"plugin {name!r} holds several plugins: say {choice}{rest}")


def _has_hooks(holder: Any) -> bool:
    return any(hasattr(value, "gateway_impl") for _, value in inspect.getmembers_static(holder))


def _failure(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"has a syntax error: {error.msg} ({error.filename}, line {error.lineno})"
    return f"cannot be loaded: {type(error).__name__}: {error}"
