"""The other end of a call, which may go away at any moment."""

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from gateway.errors import CallerGone


async def until_gone(receive: Receive) -> None:
    """Returns when the caller has closed the connection; what it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


class CallerWatch:
    """Watches the connection while an answer is generated.

    Every pause of the generation goes through `wait`, so that it stops within one token of the
    caller's going away, however long the pause was to be.
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
        """Lets `seconds` pass, at least one turn of the loop; raises CallerGone."""
        if seconds > 0:
            await asyncio.wait((self._gone,), timeout=seconds)
        else:
            await asyncio.sleep(0)
        if self._gone.done():
            raise CallerGone

    async def until(self, event: asyncio.Event) -> None:
        """Waits for `event`; raises CallerGone."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait((self._gone, waiting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._gone.done():
            raise CallerGone


async def read_body(receive: Receive) -> bytes:
    """The whole body of a request; CallerGone where it broke off."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
