"""Serving the simulator: inside a running loop, or as a process of its own."""

import asyncio
import socket
import threading
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from types import TracebackType
from typing import Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.simulator.app import SimulatorApp, create_simulator
from gateway.simulator.breaking import EXTENSION
from gateway.simulator.config import SimulatorConfig
from gateway.simulator.faults import Faults
from gateway.simulator.monitor import Stats

# Seconds; uvicorn takes whole ones only.
_LONGEST_DRAIN = 1


class BreakableHttp(HttpToolsProtocol):
    """uvicorn's protocol, with the connection in reach of faults that break it.

    `closed` is done once the connection is.
    """

    closed: asyncio.Future[None]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.closed = self.loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set_result(None)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self.transport}}

    def on_headers_complete(self) -> None:
        date = formatdate(usegmt=True).encode()
        self.server_state.default_headers = [(b"date", date), (b"server", b"uvicorn")]
        super().on_headers_complete()


def _settings(app: SimulatorApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host,
        port,
        http=BreakableHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_LONGEST_DRAIN,
    )


class Simulator:
    """A simulator that serves on a loopback port, in the running loop, while its block lasts.

        async with Simulator(SimulatorConfig(itl=0.02)) as sim:
            ...  # sim.url, sim.stats

    Leaving the block breaks off what is still in flight; no task and no socket stays. `port` 0 is
    any that is free.
    """

    def __init__(self, config: SimulatorConfig | None = None, *, port: int = 0) -> None:
        self._app = create_simulator(config)
        self._app.control.buried = self.refuse
        self._settings = _settings(self._app, "127.0.0.1", port)
        self._state = ServerState()
        self._accepted = 0
        self._port = port
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def faults(self) -> Faults:
        """What goes wrong for all callers; may be replaced at any time.

        Only the fault "refuse" is for the configuration; later there are `refuse()` and `accept()`.
        """
        return self._app.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._app.faults = faults

    @property
    def stats(self) -> Stats:
        monitor = self._app.monitor
        return Stats(
            monitor.served,
            monitor.aborted,
            monitor.in_flight,
            len(self._state.connections),
            self._accepted,
        )

    async def idle(self) -> None:
        """Waits until no generation call is in flight, as after a caller has gone away."""
        await self._app.monitor.idle.wait()

    async def __aenter__(self) -> Self:
        self._settings.load()
        self._bind()
        if not self._app.faults.refuses:
            await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_listening()
        connections = list(self._connections)
        for connection in connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.closed for connection in connections))
        # Each call notices that its caller is gone; what awaits something else is not waited for.
        if self._state.tasks:
            _, late = await asyncio.wait(self._state.tasks, timeout=_LONGEST_DRAIN)
            for task in late:
                task.cancel()

    def refuse(self) -> None:
        """Refuses connections from now on, as a worker does that is down; open ones stay."""
        self._stop_listening()
        self._bind()

    async def accept(self) -> None:
        """Accepts connections again, at the same address."""
        if self._server is None and self._socket is not None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._connection, sock=self._socket)

    def _bind(self) -> None:
        """Takes the port; as long as nobody listens, connections to it are refused."""
        self._socket = _bound("127.0.0.1", self._port)
        self._port = self._socket.getsockname()[1]

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._socket is not None:
            self._socket.close()

    def _connection(self) -> BreakableHttp:
        self._accepted += 1
        return BreakableHttp(self._settings, self._state, {})

    @property
    def _connections(self) -> set[BreakableHttp]:
        return {one for one in self._state.connections if isinstance(one, BreakableHttp)}


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, the second
    # write of each answer would wait 40 ms for an acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


def serve(config: SimulatorConfig, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until the process is told to stop (SIGINT, SIGTERM)."""
    with suppress(KeyboardInterrupt):
        if config.faults.refuses:
            with _bound(host, port):
                threading.Event().wait()
        app = create_simulator(config)
        server = uvicorn.Server(_settings(app, host, port))
        app.control.buried = partial(setattr, server, "should_exit", True)
        server.run()
