"""The turn of an engine that sleeps between its turns."""

import asyncio
from abc import ABC, abstractmethod

from gateway_plugins.runtime.drivers.driver import Exit, Launch


class Turn(ABC):
    """An engine from when it was started or woken until it sleeps or ends.

    `ended` tells of either; the exit code of one that sleeps is 0.
    """

    def __init__(self, identity: str, url: str, launch: Launch) -> None:
        self.identity = f"{identity}, generation {launch.generation}"
        self.url = url
        self.model = launch.model
        self.over: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.watching = asyncio.create_task(self.watch())
        self._stopping: asyncio.Task[None] | None = None

    async def ended(self) -> Exit:
        return await asyncio.shield(self.over)

    async def stop(self, grace: float) -> None:
        """Put the engine to sleep; end one that does not fall asleep, if that is possible."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self.rest(grace))
        await asyncio.shield(self._stopping)

    def tell(self, end: Exit) -> None:
        """The turn is over; of several ends the first counts."""
        if not self.over.done():
            self.over.set_result(end)
            self.watching.cancel()

    @abstractmethod
    async def watch(self) -> None:
        """Tell when the engine ends by itself."""

    @abstractmethod
    async def rest(self, grace: float) -> None:
        """Do what `stop` does, and tell how the turn has ended."""
