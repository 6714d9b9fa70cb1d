"""uvicorn as the gateway runs it: bounded headers, nothing added to answers, a told drain."""

import asyncio
import gc
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import Gateway
from gateway.asgi import CallerTransport
from gateway.proxy import LAST_WORDS


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, but nobody can send endless headers, or connect and stay silent."""

    max_header_bytes = 64 * 1024

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(CallerTransport(transport, self.loop))  # type: ignore[arg-type]
        self._head_size = 0
        self._head_open = True
        self._expect_more()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.transport.lost()  # type: ignore[attr-defined]

    def _expect_more(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_open and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > self.max_header_bytes:
                self.send_400_response("The request header is too large.")
            else:
                self._expect_more()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = 0
        self._head_open = True

    def on_headers_complete(self) -> None:
        self._head_open = False
        super().on_headers_complete()


class Server(uvicorn.Server):
    """Serves one gateway. At a signal calls in flight get `timeouts.drain` seconds to finish."""

    def __init__(
        self, gateway: Gateway, *, host: str | None = None, port: int | None = None
    ) -> None:
        settings = gateway.config
        self._gateway = gateway
        self._drain = settings.timeouts.drain
        protocol = type(
            "Protocol", (BoundedProtocol,), {"max_header_bytes": settings.limits.max_header_bytes}
        )
        super().__init__(
            uvicorn.Config(
                gateway,
                host=settings.host if host is None else host,
                port=settings.port if port is None else port,
                loop="uvloop",
                http=protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(settings.timeouts.keepalive or 3600),
                timeout_graceful_shutdown=None
                if self._drain is None
                else int(self._drain + 2 * LAST_WORDS),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what stands now stands to the end: collections need not look at it again
        gc.set_threshold(10_000, 20, 20)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._gateway.drain(self._drain))
        await super().shutdown(sockets)
        await draining

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on; with port 0 in the configuration, the real one."""
        name: Any = self.servers[0].sockets[0].getsockname()
        return name[0], name[1]
