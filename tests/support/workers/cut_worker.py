"""A worker that breaks every stream off after so many bytes of what a simulator answers."""

from typing import Self

import httpx

from gateway.simulator import Simulator
from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


END = b"0\r\n\r\n"
"""How a body in chunks ends."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class CutWorker:
    """Answers as `engine` does, and closes the connection after `cut` bytes of a stream.

    Before that it sends `last`; if it `hangs`, the connection stays open. `whole` is the latest
    stream that it would have sent, `asked` counts those that it was asked for.
    """

    def __init__(self, engine: Simulator) -> None:
        self.cut = self.asked = 0
        self.whole = self.last = b""
        self.hangs = False
        self._client = httpx.AsyncClient(base_url=engine.url, trust_env=False)
        self._worker = ScriptedWorker(self._script)

    @property
    def url(self) -> str:
        return self._worker.url

    async def __aenter__(self) -> Self:
        await self._worker.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._worker.__aexit__(None, None, None)
        await self._client.aclose()

    async def _script(self, connection: ScriptedConnection) -> None:
        head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        json = {"content-type": "application/json"}
        answer = await self._client.post(path, content=body, headers=json)
        if not answer.headers["content-type"].startswith("text/event-stream"):
            await connection.write(answer_of(answer.content))
            return
        self.asked += 1
        self.whole = answer.content
        await connection.write(HEAD + chunk(self.whole[: self.cut]) + self.last)
        if self.hangs:
            await connection.closed.wait()
