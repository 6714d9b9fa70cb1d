"""The real gateway on a real socket, inside a test's loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from gateway.app import Gateway
from gateway.config import Config, PluginEntry, Probes, Worker
from gateway.server import Server

T = TypeVar("T")

LAST_WAIT = 1.0
"""Seconds in which what still answers someone may end by itself; it is cancelled after."""


NO_PROBES = Probes(interval=None, models=None)
"""For `Config(probes=NO_PROBES)`: the workers are sent calls alone."""


class Live(msgspec.Struct, frozen=True):
    """A gateway that serves. `client` is an httpx client of its own, without time-outs."""

    url: str
    gateway: Gateway
    server: Server
    client: httpx.AsyncClient

    def plugin(self, kind: type[T]) -> T:
        """The running plugin of that class. Raises LookupError where there is none."""
        for plugin in self.gateway.plugins.loaded:
            if isinstance(plugin.object, kind):
                return plugin.object
        raise LookupError(f"no {kind.__name__} runs in this gateway")


class GatewayFor(Protocol):
    """The fixture `gateway_for`: starts a gateway that serves until the test is over.

    `plugins` are named as in the configuration file, given as classes, or made by `entry`. The
    worker is the test's simulator unless `workers` has the URLs of others. `settings` are fields of
    the Config; the database is gone with the gateway unless they name a `db_path`.
    """

    async def __call__(
        self,
        *plugins: str | type | PluginEntry,
        workers: Sequence[str | Worker] | None = None,
        **settings: Any,
    ) -> Live: ...


def entry(plugin: str | type, **options: object) -> PluginEntry:
    """How the configuration names a plugin and its options.

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
    """Serve on a free loopback port while the block lasts, with the server that `serve` runs.

    No signal is handled, the process is not ended, and nothing stays behind: at the end what is in
    flight is told that the gateway drains. Raises ConfigError where a plugin does not start.
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
    """What uvicorn does at its end, without the tenths of a second in which it looks about."""
    for listening in server.servers:
        listening.close()
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
    while state.connections:  # noqa: ASYNC110  uvicorn has no event for it; it is the next turn
        await asyncio.sleep(0)
