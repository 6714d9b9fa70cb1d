"""uvicorn as the gateway runs it: bounded headers, nothing added to answers, a told drain."""

import asyncio
import gc
import math
import socket
import sys
from typing import Any, cast

import uvicorn
from uvicorn.lifespan.off import LifespanOff

from gateway.app import Gateway
from gateway.direct import CallerConnection
from gateway.proxy import LAST_WORDS


class Lifespan(LifespanOff):
    """Enters and leaves the gateway where uvicorn would speak the lifespan protocol with it.

    So a ConfigError comes out as it is; uvicorn has only the text of a traceback.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._gateway = cast(Gateway, config.app)

    async def startup(self) -> None:
        await self._gateway.__aenter__()

    async def shutdown(self) -> None:
        await self._gateway.__aexit__(None, None, None)


class Server(uvicorn.Server):
    """Serves one gateway. At a signal calls in flight get `timeouts.drain` seconds to finish."""

    def __init__(
        self, gateway: Gateway, *, host: str | None = None, port: int | None = None
    ) -> None:
        settings = gateway.config
        self._gateway = gateway
        self._drain = settings.timeouts.drain
        protocol = type(
            "Protocol", (CallerConnection,), {"max_header_bytes": settings.limits.max_header_bytes}
        )
        super().__init__(
            uvicorn.Config(
                gateway,
                host=settings.host if host is None else host,
                port=settings.port if port is None else port,
                loop="uvloop",
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(settings.timeouts.keepalive),  # 0 serves nobody
                timeout_graceful_shutdown=None
                if self._drain is None
                else int(self._drain + 2 * LAST_WORDS),
            )
        )
        self.config.load()
        self.config.lifespan_class = Lifespan

    async def main_loop(self) -> None:
        gc.collect()
        gc.freeze()  # what stands now stands to the end: collections need not look at it again
        gc.set_threshold(10_000, 20, 20)
        # The storage's threads hand the interpreter back to the loop sooner than after 5 ms.
        sys.setswitchinterval(0.001)
        await super().main_loop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._gateway.drain(self._drain))
        await super().shutdown(sockets)
        if self.force_exit:
            draining.cancel()
            await self._gateway.drain(0)
        else:
            await draining
            self._captured_signals.clear()  # they are obeyed; uvicorn would die of them once more

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; with port 0 in the configuration, the real one."""
        name: Any = self.servers[0].sockets[0].getsockname()
        return name[0], name[1]
