"""Which driver starts the engine of a model."""

from gateway_plugins.runtime.drivers.driver import Driver
from gateway_plugins.runtime.drivers.process import ProcessDriver
from gateway_plugins.runtime.options import Model, Options, Runtime


class Drivers:
    """The drivers of the models of one gateway. `owner` is its database, see ProcessDriver."""

    def __init__(self, options: Options, owner: str) -> None:
        self._processes = ProcessDriver(owner)
        self._containers: Driver | None = None
        hosts = [model.docker.host for model in options.models if model.docker is not None]
        if hosts:
            from gateway_plugins.runtime.drivers.docker import DockerDriver  # an optional library

            self._containers = DockerDriver(owner, hosts)

    def of(self, model: Model) -> Driver:
        if model.docker is None or self._containers is None:
            return self._processes
        return self._containers

    def port_of(self, model: Model, runtime: Runtime) -> int:
        return runtime.port

    async def clear(self, runtime: str) -> None:
        """End what a gateway that was killed has left of this runtime."""
        await self._processes.clear(runtime)
        if self._containers is not None:
            await self._containers.clear(runtime)
