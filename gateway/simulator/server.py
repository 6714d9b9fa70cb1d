"""Serves the simulator: inside a running loop, or as a process of its own."""

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
from gateway.simulator.life import Life
from gateway.simulator.monitor import Stats

# In seconds; uvicorn accepts whole ones only.
_DRAIN_TIMEOUT = 1


class BreakableHttp(HttpToolsProtocol):
    """uvicorn's protocol, with the connection accessible to faults that break it.

    `closed` is done once the connection is closed.
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
        timeout_graceful_shutdown=_DRAIN_TIMEOUT,
    )


class Simulator:
    """A simulator on a loopback port, served by the running loop inside its `async with` block.

        async with Simulator(SimulatorConfig(itl=0.02)) as sim:
            ...  # sim.url, sim.stats

    Leaving the block breaks off all calls in flight; no task and no socket remains. `port` 0
    selects a free port.
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
        """Base URL of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def faults(self) -> Faults:
        """The faults that apply to all callers; may be replaced at any time.

        The fault "refuse" works only in the configuration; later use `refuse()` and `accept()`.
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
        """Wait until no generation call is in flight, as after a caller has left."""
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
        await self._app.close()
        connections = list(self._connections)
        for connection in connections:
            connection.transport.abort()
        await asyncio.gather(*(connection.closed for connection in connections))
        # Each call notices its caller's disconnect; a task that awaits something else is cancelled.
        if self._state.tasks:
            _, late = await asyncio.wait(self._state.tasks, timeout=_DRAIN_TIMEOUT)
            for task in late:
                task.cancel()

    def refuse(self) -> None:
        """Refuse connections from now on, as a worker that is down does; open ones stay."""
        self._stop_listening()
        self._bind()

    async def accept(self) -> None:
        """Accept connections again, at the same address."""
        if self._server is None and self._socket is not None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._connection, sock=self._socket)

    def _bind(self) -> None:
        """Bind the port; while nothing listens on it, connections to it are refused."""
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
    # asyncio turns Nagle's algorithm off only if the protocol is named; with it on, the second
    # write of each response would wait 40 ms for an acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


def serve(
    config: SimulatorConfig,
    host: str = "127.0.0.1",
    port: int = 8000,
    life: Life | None = None,
) -> None:
    """Serve until the process receives SIGINT or SIGTERM, or until `life` ends it."""
    life = life or Life()
    with suppress(KeyboardInterrupt):
        life.begin()
        life.load(config.max_model_len)
        if config.faults.refuses:
            with _bound(host, port):
                threading.Event().wait()
        app = create_simulator(config)
        server = uvicorn.Server(_settings(app, host, port))
        app.control.buried = partial(setattr, server, "should_exit", True)
        server.run()
