"""The caller's side of a connection: its request body, and its disconnect at any moment."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from gateway.errors import CallerGone


async def until_gone(receive: Receive) -> None:
    """Return once the caller has closed the connection; drop what it still sends."""
    while (await receive())["type"] != "http.disconnect":
        pass


class CallerWatch:
    """Watches the connection while a response is generated.

    Every pause of the generation goes through `wait`, so that the generation stops within one token
    of the caller's disconnect, however long the pause.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def __aenter__(self) -> Self:
        self._gone = asyncio.create_task(until_gone(self._receive))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gone.cancel()
        await asyncio.wait((self._gone,))

    async def wait(self, seconds: float) -> None:
        """Wait for `seconds`, at least one turn of the loop; raises CallerGone."""
        if seconds > 0:
            await asyncio.wait((self._gone,), timeout=seconds)
        else:
            await asyncio.sleep(0)
        if self._gone.done():
            raise CallerGone

    async def until(self, event: asyncio.Event) -> None:
        """Wait for `event`; raises CallerGone."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait((self._gone, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._gone.done():
            raise CallerGone


async def read_body(receive: Receive) -> bytes:
    """Read the whole body of a request; raises CallerGone if it breaks off."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
