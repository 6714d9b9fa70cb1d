"""Runs the real gateway on a real socket, in the test's event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from gateway.app.gateway import Gateway
from gateway.config import Config, PluginEntry, Probes, Worker
from gateway.serve.server import Server

T = TypeVar("T")

LAST_WAIT = 1.0
"""Seconds that responses in progress have to end by themselves before they are cancelled."""


NO_PROBES = Probes(interval=None, models_interval=None)
"""For `Config(probes=NO_PROBES)`: the workers receive calls only."""


class Live(msgspec.Struct, frozen=True):
    """A running gateway. `client` is an httpx client for its `url`, without timeouts."""

    url: str
    gateway: Gateway
    server: Server
    client: httpx.AsyncClient

    def plugin(self, kind: type[T]) -> T:
        """Return the running plugin of that class. Raises LookupError if there is none."""
        for plugin in self.gateway.plugins.loaded:
            if isinstance(plugin.object, kind):
                return plugin.object
        raise LookupError(f"no {kind.__name__} runs in this gateway")


class GatewayFor(Protocol):
    """The fixture `gateway_for`: starts a gateway that serves until the test ends.

    `plugins` are names as in the configuration file, classes, or results of `entry`. The worker is
    the test's simulator unless `workers` names others. `settings` are fields of the Config, their
    sections Structs or mappings such as `storage={"path": "notes.db"}`; the database is deleted
    with the gateway unless `storage` names a path.
    """

    async def __call__(
        self,
        *plugins: str | type | PluginEntry,
        workers: Sequence[str | Worker] | None = None,
        **settings: Any,
    ) -> Live: ...


def entry(plugin: str | type, **options: object) -> PluginEntry:
    """Build the configuration entry of a plugin with its options.

    `plugin` is a name as in the configuration file, or a class at the top level of its module.
    """
    name = plugin if isinstance(plugin, str) else _name_of(plugin)
    return PluginEntry(name=name, options=options, source="test")


def _name_of(plugin: type) -> str:
    if "." in plugin.__qualname__:
        raise ValueError(f"{plugin.__qualname__} must stand at the top level of its module")
    return f"{plugin.__module__}:{plugin.__qualname__}"


@contextlib.asynccontextmanager
async def live(gateway: Gateway | Config) -> AsyncIterator[Live]:
    """Serve on a free loopback port during the block, with the same server as `gateway serve`.

    Handles no signals and does not end the process. At the end of the block, calls in flight end
    with the error `draining` and everything is closed. Raises ConfigError if a plugin does not
    start.
    """
    if isinstance(gateway, Config):
        gateway = Gateway(gateway)
    server = Server(gateway, host="127.0.0.1", port=0)
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    url = "http://{}:{}".format(*server.address)
    try:
        async with httpx.AsyncClient(
            base_url=url, timeout=None, verify=False, trust_env=False
        ) as client:
            yield Live(url, gateway, server, client)
    finally:
        await _stop(server, gateway)
        await server.lifespan.shutdown()


async def _stop(server: Server, gateway: Gateway) -> None:
    """Shut down as uvicorn does, without its polling every tenth of a second."""
    server.door.close()
    await gateway.drain(0)
    state = server.server_state
    for connection in list(state.connections):
        connection.shutdown()
    if state.tasks:
        _, late = await asyncio.wait(state.tasks, timeout=LAST_WAIT)
        for task in late:
            task.cancel()
    for connection in list(state.connections):
        if connection.transport is not None:
            connection.transport.abort()
    while state.connections:  # noqa: ASYNC110  uvicorn has no event for it; one loop turn is enough
        await asyncio.sleep(0)
