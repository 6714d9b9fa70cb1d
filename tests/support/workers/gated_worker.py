"""A worker whose streams go on event by event, as a test says."""

import asyncio

from gateway.testing import ScriptedConnection, sse

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"connection: close\r\n\r\n"
)


def event(number: int, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": finish}
    return sse({"id": "c", "object": "chat.completion.chunk", "model": "sim", "choices": [choice]})


class Gated:
    """Each response has `count` events and `[DONE]`; the first two come at once.

    The others come once `free` is set. `begun` is set by the first request.
    """

    def __init__(self, count: int = 6, filler: bytes = b"") -> None:
        self.free, self.begun = asyncio.Event(), asyncio.Event()
        self.events = [event(number) for number in range(count)]
        self.events += [b": %b\n\n" % filler] if filler else []
        self.events += [event(count, "stop"), sse("[DONE]")]

    @property
    def body(self) -> bytes:
        return b"".join(self.events)

    async def script(self, connection: ScriptedConnection) -> None:
        await connection.read_request()
        self.begun.set()
        await connection.write(HEAD)
        for number, one in enumerate(self.events):
            if number == 2:
                await self.free.wait()
            await connection.write(b"%x\r\n%b\r\n" % (len(one), one))
        await connection.write(b"0\r\n\r\n")
