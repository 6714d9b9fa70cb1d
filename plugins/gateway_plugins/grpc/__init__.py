"""A port for gRPC: `llm.v1` for the workers that exist, and a service of our own.

`server.py` is the port, and the only file that knows the library `grpc`. `edge` makes a call of an
RPC and messages of its response, `services` has what is particular to each method, `messages` the
descriptors. `status.py` says how failures are told, `details.py` writes that into metadata.
`rpcs.py` counts and logs, `health.py` and `reflection.py` are gRPC's own protocols, `ports.py`
finds out whether another program has the port, `serving.py` joins all of them. `flag` is what the
command line has of it.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway import ConfigError, Host, Sample, hookimpl
from gateway_plugins.grpc.options import Options

if TYPE_CHECKING:
    from gateway_plugins.grpc.serving import Serving

NEEDED = ("grpc", "google.protobuf")


class Grpc:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        for name in NEEDED:
            if not _is_there(name):
                raise ConfigError(f"there is no package {name}; install llm-call-gateway[grpc]")
        self._options = config
        self._serving: Serving | None = None

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        # Not before: the library must not be touched before processes have forked.
        from gateway_plugins.grpc.serving import Serving

        self._serving = Serving(gateway, self._options)
        async with self._serving:
            yield

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        return iter(()) if self._serving is None else self._serving.rpcs.samples()


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
