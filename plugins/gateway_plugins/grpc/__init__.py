"""A port for gRPC: `llm.v1` for the workers that exist, and a service of our own.

`server.py` is the port, and the only file that knows the library `grpc`; `connect` has the same
methods on the HTTP port. `edge` makes a call of an RPC and messages of its response, `services` has
what is particular to each method, `messages` the descriptors. `status.py` says how failures are
told, `details.py` writes that into metadata. `served.py` lists the methods, `rpcs.py` counts and
logs, `ports.py` finds out whether another program has the port, `serving.py` joins all of them.
`flag` is what the command line has of it.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from gateway import ConfigError, Host, Sample, hookimpl
from gateway_plugins.grpc.options import Options

if TYPE_CHECKING:
    from gateway_plugins.grpc.served import Served

NEEDED = ("grpc", "google.protobuf")

CHANGEABLE = frozenset(("default_model", "empty_system", "log_calls"))
"""Options that a reload may change; the others are those of a port, which two cannot listen on."""


class Grpc:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        for name in NEEDED:
            if not _is_there(name):
                raise ConfigError(f"there is no package {name}; install llm-call-gateway[grpc]")
        self._options = config
        self._served: Served | None = None

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        """Take new options. Raises ValueError if they need a restart."""
        for name in Options.__struct_fields__:
            changed = getattr(config, name) != getattr(self._options, name)
            if changed and name not in CHANGEABLE:
                raise ValueError(f"{name}: it cannot change while the gateway runs; restart it")
        self._options = config
        if self._served is not None:
            self._served.reconfigure(config)

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        from gateway_plugins.grpc.connect.endpoint import routes

        return routes(gateway, self._of(gateway)) if self._options.connect else ()

    def _of(self, gateway: Host) -> "Served":
        from gateway_plugins.grpc.served import Served

        if self._served is None:
            self._served = Served(gateway, self._options)
        return self._served

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        # Unless somebody wants to see them: lines that the library's core writes past the log.
        os.environ.setdefault("GRPC_VERBOSITY", "none")
        # Not before: the library must not be touched before processes have forked.
        from gateway_plugins.grpc.serving import Serving

        async with Serving(gateway, self._options, self._of(gateway)):
            yield

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        return iter(()) if self._served is None else self._served.rpcs.samples()


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
