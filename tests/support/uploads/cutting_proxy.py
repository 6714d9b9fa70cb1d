"""A proxy that cuts the connection after so many bytes of the caller, again and again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from gateway.testing import Live


class CuttingProxy:
    """`cuts` are bytes that all connections together may carry until the next one is cut."""

    def __init__(self, live: Live, cuts: Sequence[int]) -> None:
        host, _, port = live.url.removeprefix("http://").partition(":")
        self._to = host, int(port)
        self._cuts = list(reversed(cuts))
        self.cut = 0
        self.url = ""

    @property
    def left(self) -> int:
        return len(self._cuts)

    def stop_cutting(self) -> None:
        self._cuts = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["CuttingProxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            near, far = await asyncio.open_connection(*self._to)
            back = asyncio.ensure_future(_copy(near, writer))
            try:
                while data := await reader.read(65_536):
                    if self._cuts and self._cuts[-1] <= len(data):
                        far.write(data[: self._cuts.pop()])
                        self.cut += 1
                        break
                    if self._cuts:
                        self._cuts[-1] -= len(data)
                    far.write(data)
                    await far.drain()
            finally:
                back.cancel()
                far.close()
                writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
