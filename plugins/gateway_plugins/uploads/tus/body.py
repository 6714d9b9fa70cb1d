"""The body of a request, on its way to the file of its upload."""

import asyncio
from typing import Literal

from starlette.types import Receive

from gateway_plugins.uploads.store.turns import Turn
from gateway_plugins.uploads.store.writing import Writer

End = Literal["whole", "left", "idle", "asked", "too_large"]
"""How a body has ended: all came; the caller left, sent nothing for too long, or sent more than it
may; or another request of the upload came."""


async def receive_body(
    receive: Receive, writer: Writer, turn: Turn, *, limit: int, idle: float
) -> End:
    """Write a body up to the offset `limit` of the upload, as it arrives. Raises OSError.

    Whatever the end is: what has arrived is with the writer, which still has to finish.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(idle) as timer:
            turn.when_asked = lambda: timer.reschedule(loop.time())
            while not turn.is_asked:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return "left"
                data: bytes = message.get("body", b"")
                if writer.end_of_given + len(data) > limit:
                    return "too_large"
                await writer.write(data)
                if not message.get("more_body", False):
                    return "whole"
                if not turn.is_asked:
                    timer.reschedule(loop.time() + idle)
    except TimeoutError:
        return "asked" if turn.is_asked else "idle"
    finally:
        turn.when_asked = _nothing
    return "asked"


def _nothing() -> None: ...
