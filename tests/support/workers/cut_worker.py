"""A worker that breaks every stream off after so many bytes of what a simulator answers."""

from typing import Self

import httpx

from gateway.simulator import Simulator
from gateway.testing import ScriptedConnection, ScriptedWorker

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class CutWorker:
    """Answers as `engine` does, and closes the connection after `cut` bytes of the body.

    `whole` is the latest body that it would have sent.
    """

    def __init__(self, engine: Simulator) -> None:
        self.cut = 0
        self.whole = b""
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
        self.whole = answer.content
        sent = self.whole[: self.cut]
        chunk = b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b""
        await connection.write(HEAD + chunk)  # and the connection closes, in the middle of the body
