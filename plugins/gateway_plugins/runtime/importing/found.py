"""What a `.env` file says to the table of variables: their values, and what to tell of them."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

import msgspec

from gateway import ConfigError
from gateway_plugins.runtime.importing.dotenv import Settings
from gateway_plugins.runtime.importing.values import Value
from gateway_plugins.runtime.importing.variables import BY_NAME, DEFAULTS

CONTAINER_CACHE = "/host_hf_cache"
"""The path of the folder HOST_HF_CACHE in the orchestrator's own container."""

ENGINE_OF = {
    "VLLM_CACHE_HOST": "vllm",
    "VLLM_READY_TIMEOUT_S": "vllm",
    "DEFAULT_READY_TIMEOUT_S": "sglang",
}
"""Variables that are for one RUNTIME_TYPE only."""

MAX_NOTES = 100


class Found(msgspec.Struct, frozen=True):
    """The converted values of the variables that are set, not empty, and of effect, by name.

    `without_effect`: why each variable that is set has none, if others are to blame.
    """

    values: Mapping[str, Value]
    without_effect: Mapping[str, str]

    @property
    def engine(self) -> str:
        return str(self.value("RUNTIME_TYPE"))

    @property
    def cache(self) -> str | None:
        """The folder of models on this machine."""
        return _cache(self.values)

    def value(self, name: str) -> Value:
        """Return the value of a variable, or the one that the orchestrator takes without it."""
        if name in self.values:
            return self.values[name]
        variable = BY_NAME[name]
        by_type = {} if name == "RUNTIME_TYPE" else DEFAULTS[self.engine]
        return variable.read(by_type.get(name, variable.default))


def find(path: Path, settings: Settings) -> Found:
    """Convert what the file at `path` sets. Raises ConfigError, which names each bad value."""
    values: dict[str, Value] = {}
    problems: list[str] = []
    for name, setting in settings.items():
        variable = BY_NAME.get(name)
        if variable is None or not variable.option or not setting.value:
            continue
        try:
            values[name] = variable.read(setting.value)
        except ValueError as error:
            problems.append(f"{path}:{setting.line}: {name}: {error}")
    if problems:
        raise ConfigError(*problems)
    without_effect = dict(_to_blame(values))
    used = {name: value for name, value in values.items() if name not in without_effect}
    return Found(_with_folders(used, path.absolute().parent), without_effect)


def _to_blame(values: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    engine = values.get("RUNTIME_TYPE", BY_NAME["RUNTIME_TYPE"].default)
    for name in values:
        if ENGINE_OF.get(name, engine) != engine:
            yield name, f"RUNTIME_TYPE is {engine}"
        if name == "HOST_HF_CACHE" and "HOST_HF_CACHE_HOST" in values:
            yield name, "HOST_HF_CACHE_HOST counts instead"


def _with_folders(values: Mapping[str, Value], base: Path) -> Mapping[str, Value]:
    """Return the values with absolute paths of this machine; `base` is the folder of the file."""
    found = dict(values)
    for name in ("HOST_HF_CACHE", "HOST_HF_CACHE_HOST", "VLLM_CACHE_HOST"):
        if name in found:
            found[name] = _absolute(base, str(found[name]))
    if "RUNTIME_FAILURE_LOG_DIR" in found:
        logs = str(found["RUNTIME_FAILURE_LOG_DIR"])
        cache = _cache(found)
        if cache is not None and f"{logs}/".startswith(f"{CONTAINER_CACHE}/"):
            logs = cache + logs.removeprefix(CONTAINER_CACHE)
        found["RUNTIME_FAILURE_LOG_DIR"] = _absolute(base, logs)
    return found


def _cache(values: Mapping[str, Value]) -> str | None:
    found = values.get("HOST_HF_CACHE_HOST") or values.get("HOST_HF_CACHE")
    return None if found is None else str(found)


def _absolute(base: Path, folder: str) -> str:
    known = os.path.expanduser(folder)  # noqa: PTH111  Path raises for an unknown user
    return os.path.normpath(base / known)


def notes(path: Path, settings: Settings, found: Found) -> list[str]:
    """Return a line for each thing of the file that is not simply taken over."""
    lines = [*_of_lines(path, settings, found), *_of_defaults(path, found)]
    more = len(lines) - MAX_NOTES
    return [*lines[:MAX_NOTES], f"{path}: and {more} more"] if more > 0 else lines


def _of_lines(path: Path, settings: Settings, found: Found) -> Iterator[str]:
    for name, setting in settings.items():
        place = f"{path}:{setting.line}: {name}"
        if setting.instead_of is not None:
            yield f"{place} is set here again, and line {setting.instead_of} has no effect"
        if name not in BY_NAME:
            yield f"{place} is not a variable of the orchestrator, and has no effect{_meant(name)}"
        elif not setting.value:
            yield f"{place} is empty, as if it were not set"
        elif reason := found.without_effect.get(name):
            yield f"{place} has no effect: {reason}"
        elif not BY_NAME[name].option:
            yield f"{place} has no effect. {BY_NAME[name].note}"
        elif name == "HF_TOKEN":
            yield f"{place} is not copied: set it in the environment of the gateway"


def _meant(name: str) -> str:
    near = get_close_matches(name.upper(), BY_NAME, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _of_defaults(path: Path, found: Found) -> Iterator[str]:
    for name in ("RUNTIME_TYPE", "REALTIME_MODEL"):
        if name not in found.values:
            yield f"{path}: {name} is not set: the orchestrator's {found.value(name)} is written"
    if found.cache is None:
        yield (
            f"{path}: HOST_HF_CACHE is not set: containers get no folder of models, and fetch them "
            "at each start. Add a volume"
        )
    elif not Path(found.cache).is_dir():
        yield f"{path}: HOST_HF_CACHE: this machine has no folder {found.cache}"
