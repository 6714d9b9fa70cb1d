"""uvicorn as the gateway runs it: bounded headers, no added response headers, draining shutdown."""

import asyncio
import contextlib
import gc
import logging
import math
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.lifespan.off import LifespanOff

from gateway.app.gateway import Gateway
from gateway.config import Config
from gateway.frontends.connection import CallerConnection
from gateway.pipeline.proxy import SHUTDOWN_TIMEOUT
from gateway.serve.door import Door, raise_limit
from gateway.serve.sockets import listening

log = logging.getLogger("gateway")


class Lifespan(LifespanOff):
    """Enters and leaves the gateway in place of uvicorn's lifespan protocol.

    A ConfigError is thus raised as it is; uvicorn keeps only the text of a traceback.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._gateway = cast(Gateway, config.app)
        self._left = False

    async def startup(self) -> None:
        await self._gateway.__aenter__()

    async def shutdown(self) -> None:
        if not self._left:
            self._left = True
            await self._gateway.__aexit__(None, None, None)


class Server(uvicorn.Server):
    """Serves one gateway; after a signal, calls in flight have `timeouts.drain` seconds to end.

    A second SIGINT ends the calls at once, and plugins leave nothing behind either; a third signal
    ends the process as it is.
    """

    def __init__(
        self, gateway: Gateway, *, host: str | None = None, port: int | None = None
    ) -> None:
        settings = gateway.config
        self._gateway = gateway

        server = self

        class Protocol(CallerConnection):
            """One class per server, because the limits are attributes of the class."""

            take = staticmethod(gateway.edge.take)
            functions = gateway.kernel.functions

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                server.door.left()

        self._protocol = Protocol
        super().__init__(
            uvicorn.Config(
                gateway,
                host=settings.host if host is None else host,
                port=settings.port if port is None else port,
                loop="uvloop",
                http=self._protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
            )
        )
        self.config.load()
        self.config.lifespan_class = Lifespan
        self.door = Door(gateway.occupancy, self._make_protocol, self.config.backlog)
        self._follow(settings)
        gateway.reloaded.append(self._follow)

    def _make_protocol(self) -> asyncio.Protocol:
        return self._protocol(self.config, self.server_state, self.lifespan.state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but the gateway accepts the callers itself, see gateway.serve.door."""
        raise_limit()
        await self.lifespan.startup()
        try:
            [own] = [sockets] if sockets else listening(self.config.host, self.config.port, 1)
            self.door.open(own, len(self._gateway.workers.all))
        except OSError as error:
            log.error("%s", error)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        if sockets is None:
            self._log_started_message(own)
        self.servers = []
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self.door.tick()
            if self._gateway.occupancy.paused:
                for connection in list(self.server_state.connections):
                    cast(CallerConnection, connection).make_room()
        return await super().on_tick(counter)

    def _follow(self, settings: Config) -> None:
        """Apply these settings to connections; `keepalive` applies to new connections only."""
        drain = self._drain = settings.timeouts.drain
        self._protocol.max_header_bytes = settings.server_limits.max_header_bytes
        self._protocol.header_timeout = settings.timeouts.header
        self.config.timeout_keep_alive = math.ceil(settings.timeouts.keepalive)  # 0 serves nobody
        grace = None if drain is None else int(drain + 2 * SHUTDOWN_TIMEOUT)
        self.config.timeout_graceful_shutdown = grace

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Reload on SIGHUP if the configuration can be read again; else SIGHUP ends the process."""
        main = threading.current_thread() is threading.main_thread()
        if not (main and self._gateway.reloader.possible):
            with super().capture_signals():
                yield
            return
        loop = asyncio.get_running_loop()
        with super().capture_signals():
            loop.add_signal_handler(signal.SIGHUP, self._gateway.reloader.on_sighup)
            signal.pthread_sigmask(
                signal.SIG_UNBLOCK, {signal.SIGHUP}
            )  # see gateway.serve.processes
            try:
                yield
            finally:
                loop.remove_signal_handler(signal.SIGHUP)

    async def main_loop(self) -> None:
        gc.collect()
        gc.freeze()  # these objects live to the end: collections can skip them
        gc.set_threshold(10_000, 20, 20)
        # The storage's threads must return the interpreter to the loop sooner than after 5 ms.
        sys.setswitchinterval(0.001)
        await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._gateway.drain(self._drain))
        self.door.close()
        await self.door.settle()
        await super().shutdown(sockets)
        if self.force_exit:
            draining.cancel()
            await self.lifespan.shutdown()  # uvicorn leaves it out
        else:
            await draining
            self._captured_signals.clear()  # handled; uvicorn would raise them again and die

    async def _wait_tasks_to_complete(self) -> None:
        """Wait for HTTP's callers, those of other front ends, and calls that nobody repeats.

        `drain` ends their calls.
        """
        await super()._wait_tasks_to_complete()
        while self._others_wait and not self.force_exit:  # noqa: ASYNC110  as uvicorn does
            await asyncio.sleep(0.1)

    @property
    def _others_wait(self) -> bool:
        """Whether calls are in flight that nobody would run again."""
        calls = self._gateway.calls_in_flight
        return any(not call.internal or call.runs_again is None for call in calls)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.force_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        super().handle_exit(sig, frame)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the server listens on; the actual port if port 0 is configured."""
        name: Any = self.door.sockets[0].getsockname()
        return name[0], name[1]
