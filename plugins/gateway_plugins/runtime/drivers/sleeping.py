"""Engines that sleep rather than end, so that they are back within seconds."""

import asyncio
import logging
from pathlib import Path

import msgspec

from gateway_plugins.runtime.drivers.driver import Driver, Engine, Exit, Launch, Log
from gateway_plugins.runtime.drivers.sleep_requests import SleepFailed, SleepRequests
from gateway_plugins.runtime.drivers.turn import Turn

log = logging.getLogger("gateway.runtime")

MAX_KEPT = 65_536
"""Bytes of output of an engine asleep that are kept for the log of its next start."""


class SleepingDriver:
    """Lets the engine of one model on one runtime sleep at `level` rather than end.

    `inner` starts the engine at first, and again once it has died, or would not wake, or has a
    snapshot that was replaced. One that does not fall asleep is ended. Each model needs a port of
    its own, see `ports`.
    """

    def __init__(self, inner: Driver, level: int) -> None:
        self._inner = inner
        self._level = level
        self._resident: _Resident | None = None

    async def start(self, launch: Launch, log: Log) -> "AwakeEngine":
        resident = self._resident
        if resident is None or not await self._wake(resident, launch, log):
            resident = await self._begin(launch, log)
        return AwakeEngine(resident, launch, self._level)

    async def clear(self, runtime: str) -> None:
        await self._inner.clear(runtime)

    async def close(self, grace: float) -> None:
        if self._resident is not None:
            await self._resident.end(grace)

    async def _begin(self, launch: Launch, log: Log) -> "_Resident":
        output = KeptOutput()
        output.to(log)
        started = await self._inner.start(msgspec.structs.replace(launch, resident=True), output)
        self._resident = _Resident(started, output, launch.snapshot)
        return self._resident

    async def _wake(self, resident: "_Resident", launch: Launch, output: Log) -> bool:
        """Return whether the engine is awake; if not, nothing of it is left."""
        if resident.unwanted:
            return False
        resident.output.to(output)
        try:
            if resident.gone:
                raise SleepFailed(f"it has died asleep ({resident.engine.identity})")
            if resident.snapshot != launch.snapshot:
                raise SleepFailed(f"its model was replaced ({resident.snapshot})")
            await SleepRequests(resident.engine.url).wake(self._level)
            return True
        except SleepFailed as error:
            log.warning("an engine does not wake and is started anew: %s", error)
            await resident.end(0)
            return False
        except BaseException:
            await resident.end(0)
            raise


class AwakeEngine(Turn):
    """The turn of an engine that this gateway has started."""

    def __init__(self, resident: "_Resident", launch: Launch, level: int) -> None:
        super().__init__(resident.engine.identity, resident.engine.url, launch)
        self._resident = resident
        self._level = level

    async def end(self, grace: float) -> None:
        await self._resident.end(grace)
        self.tell(await self._resident.engine.ended())

    async def rest(self, grace: float) -> None:
        if self.over.done() or not await self._falls_asleep():
            await self.end(grace)
        self._resident.output.to(None)
        self.tell(Exit(0))

    async def _falls_asleep(self) -> bool:
        try:
            await SleepRequests(self.url).sleep(self._level)
        except SleepFailed as error:
            log.warning("the engine of %s is ended, for it does not sleep: %s", self.model, error)
            return False
        return True

    async def watch(self) -> None:
        self.tell(await self._resident.engine.ended())


class _Resident:
    """An engine that lives on while it sleeps."""

    def __init__(self, engine: Engine, output: "KeptOutput", snapshot: Path | None) -> None:
        self.engine = engine
        self.snapshot = snapshot
        self.output = output
        self.unwanted = False
        self._end = asyncio.create_task(engine.ended())

    @property
    def gone(self) -> bool:
        return self._end.done()

    async def end(self, grace: float) -> None:
        self.unwanted = True
        await self.engine.end(grace)


class KeptOutput:
    """What an engine prints, for the log of its present start. Between two starts it is kept."""

    def __init__(self) -> None:
        self._log: Log | None = None
        self._kept = bytearray()

    def __call__(self, piece: bytes) -> None:
        if self._log is not None:
            self._log(piece)
            return
        self._kept += piece
        del self._kept[:-MAX_KEPT]

    def to(self, log: Log | None) -> None:
        self._log = log
        if log is not None and self._kept:
            log(bytes(self._kept))
            self._kept.clear()
