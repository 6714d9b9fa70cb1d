"""Joins the parts: the services, the port, and their end."""

import asyncio
import logging
from types import TracebackType
from typing import Self

from gateway import ConfigError, Host, is_loopback
from gateway_plugins.grpc.certificates import Certificates
from gateway_plugins.grpc.options import Options
from gateway_plugins.grpc.ports import claim
from gateway_plugins.grpc.served import Served
from gateway_plugins.grpc.server import Server
from gateway_plugins.grpc.services.health import CHECK, WATCH, Health
from gateway_plugins.grpc.services.reflection import VERSIONS, Reflection, method_of

log = logging.getLogger("gateway")

LATER, LAST = 5.0, 2.0
"""Seconds that the library gives RPCs beyond those of the gateway's drain, and after it.

Calls end with the drain, and then their last messages are still to be sent.
"""

LONGEST = 1e6


class Serving:
    """Serves between entry and exit. `port` is the one that it listens on."""

    def __init__(self, host: Host, options: Options, served: Served) -> None:
        self.port = 0
        self._host = host
        self._options = options
        self._address = options.host or host.config.host
        check_exposure(host, options, self._address)
        self._served = served
        self._ending: asyncio.Task[None] | None = None
        limit = host.config.server_limits.max_body_bytes
        self._server = Server(served.messages, options, limit, shared=host.peers.count > 1)
        self._health = Health(host, served.messages, served.services)
        self._add_all()

    def _add_all(self) -> None:
        served = self._served
        for name, serve in served.methods.items():
            self._server.add(name, serve)
        self._server.add(CHECK, self._health.check)
        self._server.add(WATCH, self._health.watch)
        if self._options.reflection:
            for version in VERSIONS:
                reflection = Reflection(self._host, served.messages, version)
                self._server.add(method_of(version), reflection.serve)

    async def __aenter__(self) -> Self:
        tls = self._options.tls
        certificates = None if tls is None else Certificates(tls)
        port = claim(self._host.peers, self._address, self._options.port)
        try:
            self.port = await self._server.start(self._address, port, certificates)
        except OSError as error:
            raise ConfigError(str(error)) from None
        model = self._options.default_model
        fields = {"addr": f"{self._address}:{self.port}", "model": model}
        log.info("gRPC is served", extra={"fields": fields})
        self._ending = asyncio.create_task(self._end())
        return self

    async def _end(self) -> None:
        """Refuse new calls as soon as the gateway shuts down; the gateway ends those that run."""
        await self._host.until_draining()
        self._health.look()
        await self._server.stop(_grace(self._host.config.timeouts.drain))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._health.close()
        if self._ending is not None:  # it holds the lock of the library's `stop`
            self._ending.cancel()
            await asyncio.wait([self._ending])
        await self._server.stop(LAST)


def _grace(drain: float | None) -> float:
    """Return the seconds after which the library itself ends calls: later than the gateway does.

    The gateway says why; and None would end them at once.
    """
    return LONGEST if drain is None else min(drain + LATER, LONGEST)


def check_exposure(host: Host, options: Options, address: str) -> None:
    """Raise ConfigError if other machines could call without a key, or in plaintext."""
    if is_loopback(address):
        return
    if options.tls is None and not options.insecure:
        raise ConfigError(f"host: {address} would serve plaintext; set `tls`, or `insecure: true`")
    if not (host.authenticates or host.config.allow_anonymous):
        raise ConfigError(
            f"host: other machines could call on {address} without a key; "
            "use a plugin such as auth, or set `allow_anonymous: true`"
        )
