"""Brings an engine up and takes it down: its command, driver, log, readiness, and failures."""

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import msgspec

from gateway import GatewayError, Host, Worker, WorkerSettings
from gateway_plugins.runtime.drivers.choosing import Drivers
from gateway_plugins.runtime.drivers.containers.request import listens_at
from gateway_plugins.runtime.drivers.driver import Engine, Launch, StartFailed
from gateway_plugins.runtime.finishing import finish
from gateway_plugins.runtime.loading import engines
from gateway_plugins.runtime.loading.failures import Failure, failure, failure_of, hint
from gateway_plugins.runtime.loading.log import EngineLog
from gateway_plugins.runtime.loading.readiness import (
    ANSWER,
    MODELS,
    Ask,
    Unready,
    asking,
    wait_until_ready,
    warm_up,
)
from gateway_plugins.runtime.loading.uploaded import exact, snapshot_of
from gateway_plugins.runtime.options import Model, Options, Runtime

log = logging.getLogger("gateway.runtime")

DOUBT = 60.0
"""Seconds that an engine that could not be reached has to answer again until it is ended."""

PAUSE = 0.5
"""Seconds between two questions to such an engine."""

PROBE = "probe"
"""Owner of the condition of a worker that fails the gateway's own probes."""


class Failed(Exception):
    """The engine is not there, because of `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class Loaded(msgspec.Struct, eq=False):
    """An engine that has answered for its model; `lost` tells why it does not any more.

    `silent`: a call has got no byte of it for as long as the timeouts allow.
    """

    model: Model
    generation: int
    engine: Engine
    log: EngineLog
    lost: asyncio.Future[Failure] = msgspec.field(default_factory=asyncio.Future)
    silent: bool = False


class Loader:
    """The loads of one gateway; `logs` is the folder of the engines' logs.

    `latest` has the log of the newest start of each runtime, by its name.
    """

    def __init__(self, gateway: Host, options: Options) -> None:
        self._gateway = gateway
        self._options = options
        # The whole path: another gateway may have a file of the same name in its own folder.
        self._drivers = Drivers(options, str(gateway.storage.path.resolve()))
        self._checks: set[asyncio.Task[None]] = set()
        self.doubt = DOUBT
        self.latest: dict[str, EngineLog] = {}
        self.set_options(options)

    def set_options(self, options: Options) -> None:
        """Replace the options, for the starts to come."""
        self._options = options
        self._secrets = engines.secrets_of(options.secrets, os.environ)
        self.logs = _folder(self._gateway, options)

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
        self.latest[runtime.name] = lines
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
            await finish(self.stop(loaded))
            raise
        if found is not None:
            await finish(self.end(loaded, found.reason))
            raise Failed(found)
        return loaded

    def _launch(
        self, model: Model, runtime: Runtime, generation: int, length: int | None
    ) -> Launch:
        port = self._drivers.port_of(model, runtime)
        model = exact(model)
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
            snapshot=snapshot_of(model, os.environ),
        )

    async def ended(self, loaded: Loaded) -> Failure:
        """Wait until the engine has ended, or answers no more, and return why."""
        ending = asyncio.create_task(_end_of(loaded))
        either: set[asyncio.Future[Failure]] = {ending, loaded.lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return (ending if ending.done() else loaded.lost).result()
        finally:
            ending.cancel()

    async def stop(self, loaded: Loaded) -> None:
        """Make room for another engine: this one ends, or sleeps."""
        await loaded.engine.stop(self._options.grace)
        await loaded.log.close()

    async def end(self, loaded: Loaded, reason: str | None = None) -> None:
        """End the engine; return when nothing of it is left. `reason`: it has failed."""
        await loaded.engine.end(self._options.grace)
        await loaded.log.close(reason)

    def check(self, loaded: Loaded, worker: Worker, well: Callable[[], None]) -> None:
        """Call `well` once the engine answers again; if it does not in time, it is `lost`.

        One that was `silent` has to generate a token.
        """
        task = asyncio.create_task(self._check(loaded, worker, well))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check(self, loaded: Loaded, worker: Worker, well: Callable[[], None]) -> None:
        ask = asking(self._gateway.workers.unlisted(WorkerSettings(url=loaded.engine.url)))
        until = monotonic() + self.doubt
        while monotonic() < until:
            if PROBE not in worker.conditions and await self._is_well(loaded, ask):
                loaded.silent = False
                well()
                return
            await asyncio.sleep(PAUSE)
        if not loaded.lost.done():
            what = "generated nothing" if loaded.silent else "could not be reached"
            words = f"the engine {what} for {self.doubt:g} s"
            loaded.lost.set_result(failure("runtime_not_ready", words))

    async def _is_well(self, loaded: Loaded, ask: Ask) -> bool:
        return await (_generates(loaded.model, ask) if loaded.silent else _answers(ask))

    async def close(self) -> None:
        """End what is still under way, and the engines that sleep."""
        for task in self._checks:
            task.cancel()
        if self._checks:
            await asyncio.wait(self._checks)
        await self._drivers.close(self._options.grace)


async def _end_of(loaded: Loaded) -> Failure:
    return failure_of(await loaded.engine.ended(), loaded.log.tail)


async def _answers(ask: Ask) -> bool:
    with contextlib.suppress(GatewayError):
        return (await ask("GET", MODELS, b"", ANSWER)).status == 200
    return False


async def _generates(model: Model, ask: Ask) -> bool:
    with contextlib.suppress(Unready):
        return await warm_up(model, ask) is None
    return False


def _folder(gateway: Host, options: Options) -> Path:
    """Return the folder of the logs; a temporary one, if the database is in memory."""
    if options.logs is not None:
        return Path(options.logs)
    if gateway.config.storage.in_memory:
        return Path(tempfile.gettempdir(), f"gateway-engines-{os.getpid()}")
    path = gateway.storage.path
    return path.with_name(f"{path.name}-engines")
