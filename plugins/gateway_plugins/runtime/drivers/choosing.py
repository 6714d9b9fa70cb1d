"""Which driver starts the engine of a model on a runtime."""

from gateway_plugins.runtime.drivers.attached import AttachedDriver
from gateway_plugins.runtime.drivers.docker import DockerDriver
from gateway_plugins.runtime.drivers.driver import Driver
from gateway_plugins.runtime.drivers.ports import ports_of, runs
from gateway_plugins.runtime.drivers.process import ProcessDriver
from gateway_plugins.runtime.drivers.sleeping import SleepingDriver
from gateway_plugins.runtime.drivers.using import Using
from gateway_plugins.runtime.options import Model, Options, Runtime


class Drivers:
    """The drivers of one gateway. `owner` is its database, see ProcessDriver."""

    def __init__(self, options: Options, owner: str) -> None:
        hosts = [model.docker.host for model in options.models if model.docker is not None]
        self._processes = Using(ProcessDriver(owner))
        self._containers = Using(DockerDriver(owner, hosts))
        self._ports = ports_of(options)
        self._sleeping = {
            (runtime.name, model.name): self._one_that_sleeps(model, model.sleep_level)
            for runtime in options.runtimes
            for model in options.models
            if model.sleep_level is not None and runs(model, runtime)
        }

    def of(self, model: Model, runtime: Runtime) -> Driver:
        return self._sleeping.get((runtime.name, model.name)) or self._starting(model)

    def port_of(self, model: Model, runtime: Runtime) -> int:
        """Return the port at which this gateway starts the engine."""
        return self._ports.get((runtime.name, model.name), runtime.port)

    async def clear(self, runtime: str) -> None:
        """End what a gateway that was killed has left of this runtime, or let it sleep."""
        for driver in (self._processes, self._containers):
            await driver.clear(runtime)
        for (name, _), sleeping in self._sleeping.items():
            if name == runtime:
                await sleeping.clear(runtime)

    async def close(self, grace: float) -> None:
        """End the engines that sleep. Called last."""
        for driver in self._sleeping.values():
            await driver.close(grace)

    def _one_that_sleeps(self, model: Model, level: int) -> SleepingDriver | AttachedDriver:
        if model.url is not None:
            return AttachedDriver(model.url, level)
        return SleepingDriver(self._starting(model), level)

    def _starting(self, model: Model) -> Driver:
        return self._processes if model.docker is None else self._containers
