"""Makes the calls of a recorded run again, in a gateway of this process."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from starlette.types import ASGIApp

from gateway import ConfigError, Trace
from gateway_plugins.replay.cli.comparing import Comparison, compared
from gateway_plugins.replay.recording import Recording, Session

PAGE = 50
"""Traces that are read at a time."""

MAX_NAME = 200
"""Characters of a session id that are part of the new one."""

_decode = msgspec.json.Decoder(list[Trace]).decode


class _Answer(msgspec.Struct):
    status: int = 0
    headers: dict[bytes, bytes] = {}
    body: bytes = b""


class Driver:
    """Drives the sessions of a recording one after another, each as a new session.

    `link` is what the new sessions have as metadata, beside the recorded session.
    """

    def __init__(
        self, gateway: ASGIApp, recording: Recording, key: str | None, link: Mapping[str, object]
    ) -> None:
        self._gateway = gateway
        self._recording = recording
        self._link = link
        self._headers = [(b"content-type", b"application/json")]
        if key is not None:
            self._headers.append((b"authorization", b"Bearer " + key.encode()))

    async def sessions(self) -> AsyncIterator[list[Comparison]]:
        """Yield what became of the steps of each session.

        Raises ConfigError if the gateway refuses the session.
        """
        for name, session in self._recording.sessions.items():
            new = f"{name[:MAX_NAME] or 'run'}.replay-{secrets.token_hex(4)}"
            await self._create(name, new, session)
            numbers = range(len(session.steps))
            statuses = [await self._repeat(new, number, session) for number in numbers]
            found = list[Comparison]()
            async for trace in self._traces(new, session):
                recorded = await self._recorded(session, len(found))
                step = len(found) + 1
                found.append(compared(recorded, trace, new, step, statuses[step - 1]))
            yield found

    async def _create(self, name: str, new: str, session: Session) -> None:
        """Create the new session with the sampling parameters of the recorded one."""
        first = await self._recorded(session, 0)
        params = {key: value for key, value in first.overwritten.items() if key != "model"}
        body = {
            "session_id": new,
            "metadata": {"replay": {**self._link, "session_id": name}},
            "sampling_params": params,
        }
        answer = await self._ask("POST", "/sessions", msgspec.json.encode(body))
        if answer.status >= 300:
            raise ConfigError(f"a new session: {answer.status}: {answer.body[:500].decode()}")

    async def _repeat(self, new: str, number: int, session: Session) -> int:
        """Make the call of a step; return the status of the response."""
        recorded = await self._recorded(session, number)
        path = f"/sessions/{quote(new, safe='')}{recorded.path}"
        body = msgspec.json.encode(recorded.raw_request)
        call_id = (b"x-request-id", _call_id(new, number).encode())
        return (await self._ask("POST", path, body, call_id, keep=False)).status

    async def _recorded(self, session: Session, number: int) -> Trace:
        return await asyncio.to_thread(self._recording.trace, session.steps[number])

    async def _traces(self, new: str, session: Session) -> AsyncIterator[Trace | None]:
        """Yield the new trace of each step, None for one that has none."""
        await self._ask("POST", "/admin/flush", b"")
        ids = iter([_call_id(new, number) for number in range(len(session.steps))])
        cursor: bytes | None = b""
        while cursor is not None:
            path = f"/sessions/{quote(new, safe='')}/traces?limit={PAGE}"
            path += f"&cursor={quote(cursor)}" if cursor else ""
            answer = await self._ask("GET", path, b"")
            for trace in _decode(answer.body) if answer.status == 200 else ():
                for call_id in ids:
                    yield trace if trace.call_id == call_id else None
                    if trace.call_id == call_id:
                        break
            cursor = answer.headers.get(b"x-next-cursor")
        for _ in ids:
            yield None

    async def _ask(
        self,
        method: str,
        target: str,
        body: bytes,
        *headers: tuple[bytes, bytes],
        keep: bool = True,
    ) -> _Answer:
        """Send a request to the gateway; the body of the response is read, and kept if wanted."""
        answer, chunks = _Answer(), list[bytes]()
        incoming: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
        over = asyncio.Event()

        async def receive() -> Any:
            if incoming:
                return incoming.pop()
            await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], dict(message["headers"])
            elif keep:
                chunks.append(message.get("body", b""))

        await self._gateway(self._scope(method, target, body, headers), receive, send)
        over.set()
        answer.body = b"".join(chunks)
        return answer

    def _scope(
        self, method: str, target: str, body: bytes, headers: tuple[tuple[bytes, bytes], ...]
    ) -> dict[str, Any]:
        path, _, query = target.partition("?")
        length = (b"content-length", b"%d" % len(body))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"localhost"), length, *self._headers, *headers],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
        }


def _call_id(new: str, number: int) -> str:
    return f"{new[-15:]}-{number + 1}"
