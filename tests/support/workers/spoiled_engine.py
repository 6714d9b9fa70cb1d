"""A simulated engine behind something that spoils what it says: one broken set-up."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec

from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

Json = dict[str, Any]
Edit = Callable[[Json, Json], Json | None]
"""Gets the request and a plain response or an event of a stream; returns what is sent of it."""

Refuse = Callable[[Json], str | None]
"""Gets a request; returns the message of a 400, or None if the engine may have it."""


def as_it_is(_: Json, said: Json) -> Json:
    return said


class Spoiled:
    """A worker before the engine at `url`.

    `edit` changes what the engine says, `refuse` rejects requests, `rewrite` changes them.
    `ending` replaces the end of a stream from `[DONE]` on; None: the connection breaks there.
    """

    def __init__(
        self,
        url: str,
        edit: Edit = as_it_is,
        *,
        refuse: Refuse = lambda _: None,
        rewrite: Callable[[Json], Json] = lambda asked: asked,
        ending: bytes | None = b"data: [DONE]\n\n",
    ) -> None:
        self._url = url
        self._edit = edit
        self._refuse = refuse
        self._rewrite = rewrite
        self._ending = ending

    def worker(self) -> ScriptedWorker:
        return ScriptedWorker(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, verify=False) as engine:
            while True:
                head, _, body = (await connection.read_request()).partition(b"\r\n\r\n")
                method, path, _ = head.decode("latin-1").split(" ", 2)
                asked = json.loads(body) if body else {}
                if (message := self._refuse(asked)) is not None:
                    error = {"message": message, "type": "BadRequestError", "code": 400}
                    refused = msgspec.json.encode({"error": error})
                    await connection.write(answer_of(refused, status="400 Bad Request"))
                    continue
                content = msgspec.json.encode(self._rewrite(asked)) if body else None
                got = await engine.request(method, path, content=content, headers=JSON)
                await self._answer(connection, asked, got)

    async def _answer(
        self, connection: ScriptedConnection, asked: Json, got: httpx.Response
    ) -> None:
        kind, status = got.headers.get("content-type", ""), f"{got.status_code} X"
        if not kind.startswith("text/event-stream"):
            said = json.dumps(self._edit(asked, got.json())).encode() if got.content else b""
            await connection.write(answer_of(said, status=status))
            return
        events = b"".join(self._events(asked, got.content))
        whole = answer_of(events + (self._ending or b""), content_type=kind)
        if self._ending is None:
            whole = whole.replace(b"content-length: ", b"content-length: 9")
        await connection.write(whole)
        if self._ending is None:
            connection.close()
            await connection.wait_closed()

    def _events(self, asked: Json, content: bytes) -> Iterator[bytes]:
        for event in content.split(b"\n\n"):
            data = event.removeprefix(b"data: ")
            if data.startswith(b"{") and (said := self._edit(asked, json.loads(data))) is not None:
                yield b"data: " + json.dumps(said).encode() + b"\n\n"


JSON = {"content-type": "application/json"}
