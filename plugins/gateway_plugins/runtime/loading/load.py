"""Brings an engine up and takes it down: its command, driver, log, readiness, and failures."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import msgspec

from gateway import Host, WorkerSettings
from gateway_plugins.runtime.drivers.choosing import Drivers
from gateway_plugins.runtime.drivers.containers.request import listens_at
from gateway_plugins.runtime.drivers.driver import Engine, Launch, StartFailed
from gateway_plugins.runtime.loading import engines
from gateway_plugins.runtime.loading.failures import Failure, failure, failure_of, hint
from gateway_plugins.runtime.loading.log import EngineLog
from gateway_plugins.runtime.loading.readiness import asking, wait_until_ready
from gateway_plugins.runtime.options import Model, Options, Runtime

log = logging.getLogger("gateway.runtime")


class Failed(Exception):
    """The engine is not there, because of `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Loaded(msgspec.Struct, eq=False):
    """An engine that has answered for its model."""

    model: Model
    generation: int
    engine: Engine
    log: EngineLog


class Loader:
    """The loads of one gateway; `logs` is the folder of the engines' logs."""

    def __init__(self, gateway: Host, options: Options) -> None:
        self._gateway = gateway
        self._options = options
        # The whole path: another gateway may have a file of the same name in its own folder.
        self._drivers = Drivers(options, str(gateway.storage.path.resolve()))
        self._secrets = engines.secrets_of(options.secrets, os.environ)
        self._checks: set[asyncio.Task[None]] = set()
        self.logs = _folder(gateway, options)

    async def clear(self, runtime: Runtime) -> None:
        """End what a gateway that was killed has left of this runtime."""
        await self._drivers.clear(runtime.name)

    async def load(self, model: Model, runtime: Runtime, generation: int) -> Loaded:
        """Return an engine that has answered. Raises Failed; nothing of the engine is left then.

        If the KV cache does not hold the length that was asked for, the engine is started once
        more with the length that it estimates, less a margin.
        """
        started = EngineLog.open(self.logs, model.name, engines.hidden_of(model, self._secrets))
        lines = await started
        try:
            return await self._start(model, runtime, generation, lines, None)
        except Failed:
            length = hint(lines.tail)
            if length is None:
                raise
        log.info("model %s is started again with a maximum length of %d", model.name, length)
        again = await EngineLog.open(self.logs, model.name, engines.hidden_of(model, self._secrets))
        return await self._start(model, runtime, generation, again, length)

    async def _start(
        self, model: Model, runtime: Runtime, generation: int, lines: EngineLog, length: int | None
    ) -> Loaded:
        began = monotonic()
        try:
            launch = self._launch(model, runtime, generation, length)
            engine = await self._drivers.of(model, runtime).start(launch, lines.write)
        except (StartFailed, ValueError) as error:
            await lines.close("runtime_start_failed")
            raise Failed(failure("runtime_start_failed", str(error))) from None
        except BaseException:
            await lines.close()
            raise
        return await self._await(Loaded(model, generation, engine, lines), began)

    async def _await(self, loaded: Loaded, began: float) -> Loaded:
        """Wait until the engine answers. Raises Failed."""
        engine, lines = loaded.engine, loaded.log
        try:
            ask = asking(self._gateway.workers.unlisted(WorkerSettings(url=engine.url)))
            found = await wait_until_ready(loaded.model, engine, lines, ask, began=began)
        except BaseException:
            await self.stop(loaded)
            raise
        if found is not None:
            await self.end(loaded, found.reason)
            raise Failed(found)
        return loaded

    def _launch(
        self, model: Model, runtime: Runtime, generation: int, length: int | None
    ) -> Launch:
        port = self._drivers.port_of(model, runtime)
        host = listens_at(model.docker, runtime.host)
        return Launch(
            generation=generation,
            runtime=runtime.name,
            model=model.name,
            command=engines.command_of(model, host, port, os.environ, length=length),
            environment=engines.environment_of(model, self._secrets),
            host=runtime.host,
            port=port,
            devices=runtime.devices,
            docker=model.docker,
        )

    async def ended(self, loaded: Loaded) -> Failure:
        """Wait until the engine has ended, and return why."""
        return failure_of(await loaded.engine.ended(), loaded.log.tail)

    async def stop(self, loaded: Loaded) -> None:
        """Make room for another engine: this one ends, or sleeps."""
        await loaded.engine.stop(self._options.grace)
        await loaded.log.close()

    async def end(self, loaded: Loaded, reason: str | None = None) -> None:
        """End the engine; return when nothing of it is left. `reason`: it has failed."""
        await loaded.engine.end(self._options.grace)
        await loaded.log.close(reason)

    def check(self, loaded: Loaded, well: Callable[[], None]) -> None:
        """Call `well` once the engine answers again, never if it ends before."""
        task = asyncio.create_task(self._check(loaded, well))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check(self, loaded: Loaded, well: Callable[[], None]) -> None:
        ask = asking(self._gateway.workers.unlisted(WorkerSettings(url=loaded.engine.url)))
        found = await wait_until_ready(
            loaded.model, loaded.engine, loaded.log, ask, began=monotonic()
        )
        if found is None:
            well()

    async def close(self) -> None:
        """End what is still under way, and the engines that sleep."""
        for task in self._checks:
            task.cancel()
        if self._checks:
            await asyncio.wait(self._checks)
        await self._drivers.close(self._options.grace)


def _folder(gateway: Host, options: Options) -> Path:
    """Return the folder of the logs; a temporary one, if the database is in memory."""
    if options.logs is not None:
        return Path(options.logs)
    if gateway.config.storage.in_memory:
        return Path(tempfile.gettempdir(), f"gateway-engines-{os.getpid()}")
    path = gateway.storage.path
    return path.with_name(f"{path.name}-engines")
