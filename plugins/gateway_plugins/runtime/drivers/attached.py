"""Engines that somebody else runs: they are up already, and are woken and put to sleep."""

import asyncio
import logging

from gateway_plugins.runtime.drivers.driver import Exit, Launch, Log, StartFailed
from gateway_plugins.runtime.drivers.sleep_requests import Gone, SleepFailed, SleepRequests
from gateway_plugins.runtime.drivers.turn import Turn

log = logging.getLogger("gateway.runtime")

POLL = 5.0
"""Seconds between two looks at whether an engine is there and awake."""

LOOKS = 3
"""Looks in a row that find an engine gone or asleep until it counts as ended."""

UNKNOWN_LEVEL = 2
"""An engine that this gateway did not put to sleep may have lost its weights."""


class AttachedDriver:
    """Wakes the engine at `url`, and lets it sleep at `level`. It has no log."""

    def __init__(self, url: str, level: int, *, poll: float = POLL) -> None:
        self._url = url
        self._requests = SleepRequests(url)
        self._level = level
        self._poll = poll
        self._asleep_at = UNKNOWN_LEVEL

    async def start(self, launch: Launch, log: Log) -> "AttachedEngine":
        try:
            if await self._requests.is_sleeping():
                await self._requests.wake(self._asleep_at)
        except Gone as error:
            raise StartFailed(f"model {launch.model}: {error}") from None
        except SleepFailed as error:
            await self.sleep(launch.model)
            raise StartFailed(f"model {launch.model}: {error}") from None
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self.sleep(launch.model)))
            raise
        return AttachedEngine(self, launch, self._poll)

    async def clear(self, runtime: str) -> None:
        """Put the engine to sleep, for another may get the runtime first."""
        try:
            if not await self._requests.is_sleeping():
                await self._requests.sleep(self._level)
                self._asleep_at = self._level
        except SleepFailed as error:
            log.warning("runtime %s: an engine is not put to sleep: %s", runtime, error)

    async def close(self, grace: float) -> None:
        """The engine is somebody else's, and sleeps since it was stopped."""

    @property
    def url(self) -> str:
        return self._url

    async def sleep(self, model: str) -> None:
        """Put the engine to sleep. What fails is logged: nothing else can be done to it."""
        self._asleep_at = UNKNOWN_LEVEL
        try:
            await self._requests.sleep(self._level)
            self._asleep_at = self._level
        except SleepFailed as error:
            log.error(
                "the engine of %s may hold its memory, for it does not sleep: %s", model, error
            )

    async def serves(self) -> bool:
        """Return whether the engine is there and awake. One that is slow to answer is there."""
        try:
            return not await self._requests.is_sleeping()
        except Gone:
            return False
        except SleepFailed:
            return True


class AttachedEngine(Turn):
    """An engine of somebody else's from when it was woken until it sleeps or is gone."""

    def __init__(self, driver: AttachedDriver, launch: Launch, poll: float) -> None:
        super().__init__(driver.url, driver.url, launch)
        self._driver = driver
        self._poll = poll

    end = Turn.stop

    async def rest(self, grace: float) -> None:
        self.watching.cancel()
        await self._driver.sleep(self.model)
        self.tell(Exit(0))

    async def watch(self) -> None:
        failed = 0
        while failed < LOOKS:
            await asyncio.sleep(self._poll)
            failed = 0 if await self._driver.serves() else failed + 1
        log.warning("the engine of %s at %s is gone, or was put to sleep", self.model, self.url)
        self.tell(Exit(None))
