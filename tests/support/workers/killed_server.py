"""A server on a loopback port that can be killed, and comes back on the same one."""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Mood = TypeVar("Mood", bound=str)


class Connection(Protocol):
    """One that is open."""

    transport: asyncio.Transport


class Mortal(Generic[Mood]):
    """It is `killed` in the mood of that name. Whoever makes `connections` keeps them there."""

    def __init__(self, mood: Mood, connect: Callable[[], asyncio.BaseProtocol]) -> None:
        self.mood = mood
        self.connections: set[Connection] = set()
        self.port = 0
        self._connect = connect
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connect, "127.0.0.1", self.port, reuse_address=True, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """As when its process dies: the port is closed, and every connection reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.transport.abort()

    async def become(self, mood: Mood) -> None:
        """What it is from now on; calls that it has begun end as they began, but for a kill."""
        self.mood = mood
        if mood == "killed":
            self.kill()
        elif self._server is None:
            await self.start()
