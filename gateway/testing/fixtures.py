"""The pytest fixtures; the only module that needs pytest and pytest-asyncio."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from gateway import testing
from gateway.config import MEMORY, Config, PluginEntry, StorageSettings, Worker
from gateway.simulator import Simulator


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A running simulator."""
    async with Simulator() as running:
        yield running


@pytest_asyncio.fixture
async def gateway_for(simulator: Simulator) -> AsyncIterator[testing.GatewayFor]:
    """A function that starts gateways, see GatewayFor."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            *plugins: str | type | PluginEntry,
            workers: Sequence[str | Worker] | None = None,
            **settings: Any,
        ) -> testing.Live:
            named = (p if isinstance(p, PluginEntry) else testing.entry(p) for p in plugins)
            urls = (simulator.url,) if workers is None else workers
            found = (w if isinstance(w, Worker) else Worker(url=w) for w in urls)
            settings |= _sections(settings)
            settings["storage"] = _in_memory(settings.get("storage", StorageSettings()))
            settings.setdefault("probes", testing.NO_PROBES)
            config = Config(workers=tuple(found), plugins=tuple(named), **settings)
            return await stack.enter_async_context(testing.live(config))

        yield start


def _sections(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that are mappings, each as its Struct."""
    given = {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    return {name: getattr(msgspec.convert(given, Config), name) for name in given}


def _in_memory(settings: StorageSettings) -> StorageSettings:
    """Return `settings` with a database in memory unless they name another file."""
    unnamed = settings.path == StorageSettings().path
    return replace(settings, path=MEMORY) if unnamed else settings


@pytest.fixture
def make_call() -> Callable[..., testing.RecordedCall]:
    """`gateway.testing.make_call` itself."""
    return testing.make_call
