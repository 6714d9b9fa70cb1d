"""The gateway of this process through which a worker is asked: that of the configuration, small."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from msgspec.structs import replace

from gateway import Config, PluginEntry, WorkerSettings, create_app
from gateway_plugins.trace_capture.cli.doctor.doors import InProcess

CAPTURE = "trace_capture"

_NAMES = {
    "sessions": "sessions",
    "gateway_plugins.sessions": "sessions",
    "translate": "translate",
    "gateway_plugins.translate:Translate": "translate",
    CAPTURE: CAPTURE,
    "gateway_plugins.trace_capture:TraceCapture": CAPTURE,
}
"""The plugins on which it depends what is captured, by the names that entries may have."""


def captures(config: Config) -> bool:
    """Whether the configuration has trace_capture."""
    return CAPTURE in _known(config)


def translates(config: Config) -> bool:
    """Whether the configuration has translate."""
    return "translate" in _known(config)


def alone(config: Config, worker: WorkerSettings) -> Config:
    """Return the configuration of a gateway that has this worker only, and no plugin but ours.

    Their options, the timeouts and the model stay. Others may start engines, call out or refuse
    callers; what they change is seen by asking the gateway that runs. The traces are temporary.
    """
    known = _known(config)
    plugins = list(known.values())
    if "sessions" not in known:
        plugins.insert(0, _entry("sessions"))
    if CAPTURE not in known:
        plugins.append(_entry(CAPTURE))
    small = replace(config, workers=(worker,), plugins=tuple(plugins), processes=1)
    return small.with_database(":memory:")


@contextlib.asynccontextmanager
async def stage(
    config: Config, worker: WorkerSettings, key: str | None
) -> AsyncIterator[InProcess]:
    """Run such a gateway during the block. Raises ConfigError if a plugin does not start."""
    async with create_app(alone(config, worker)) as gateway:
        yield InProcess(gateway, key)


def chosen(config: Config, names: Sequence[str]) -> Sequence[WorkerSettings]:
    """Return the workers of these ids or URLs, all if none is named; an unknown URL is a new one.

    Raises ValueError for what is neither.
    """
    known = {
        name: one for one in config.workers for name in (one.url + one.api_path, one.worker_id)
    }
    return [known.get(name.rstrip("/")) or WorkerSettings(url=name) for name in names] or [
        *config.workers
    ]


def _known(config: Config) -> dict[str, PluginEntry]:
    return {_NAMES[one.name]: one for one in config.plugins if one.name in _NAMES}


def _entry(name: str) -> PluginEntry:
    return PluginEntry(name=name, source="gateway doctor")
