"""The ways to the gateway that is asked: one in this process, or one that runs."""

import asyncio
from typing import Any, Protocol

import httpx
import msgspec
from starlette.types import ASGIApp, Message

from gateway import ConfigError, error_message

AGENT = "gateway-doctor"
"""`user-agent` of all calls, and so the harness that counts name."""

MAX_BYTES = 512 * 1024 * 1024
"""Bytes of a response that are kept: the traces of a session may be long."""


class Answer(msgspec.Struct, frozen=True):
    """A response, as far as it came; `status` is 0 if none began.

    `late`: the caller did not wait for more.
    """

    status: int
    body: bytes
    late: bool = False

    @property
    def error(self) -> str:
        """The message of the error in it, "" if there is none."""
        try:
            found = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        if not isinstance(found, dict):
            return ""
        return (error_message(found.get("error")) or "")[:500]


class Door(Protocol):
    """Sends requests to one gateway.

    A response has `seconds`, and `most` bytes of it are kept.
    """

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        seconds: float = 30.0,
        most: int = MAX_BYTES,
    ) -> Answer: ...


class InProcess:
    """Asks a gateway of this process. A response that takes too long loses its caller.

    The key goes to workers that get the keys of callers (`forward_authorization`).
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        seconds: float = 30.0,
        most: int = MAX_BYTES,
    ) -> Answer:
        content = b"" if body is None else msgspec.json.encode(body)
        request = _Request(content, seconds, most)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [
                (b"host", b"doctor"),
                (b"user-agent", AGENT.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(content)),
                *self._key,
            ],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
        }
        await self._app(scope, request.receive, request.send)
        return Answer(request.status, bytes(request.body), request.late)


class _Request:
    """A request and its response, as an ASGI server has them."""

    def __init__(self, content: bytes, seconds: float, most: int) -> None:
        self.status = 0
        self.body = bytearray()
        self.ended = self.late = False
        self._content: bytes | None = content
        self._most = most
        self._until = asyncio.get_running_loop().time() + seconds

    async def receive(self) -> Message:
        """Return the body, then the disconnect once the time is over."""
        content, self._content = self._content, None
        if content is not None:
            return {"type": "http.request", "body": content, "more_body": False}
        await asyncio.sleep(self._until - asyncio.get_running_loop().time())
        self.late = not self.ended
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")[: self._most - len(self.body)]
            self.ended = not message.get("more_body", False)


class OverHttp:
    """Asks a gateway that runs. Raises ConfigError if it cannot be reached."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        seconds: float = 30.0,
        most: int = MAX_BYTES,
    ) -> Answer:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"user-agent": AGENT, "content-type": "application/json"}
        status, said = 0, bytearray()
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, path, content=content, headers=headers) as response,
            ):
                status = response.status_code
                async for chunk in response.aiter_bytes():
                    said += chunk[: most - len(said)]
        except TimeoutError:
            return Answer(status, bytes(said), late=True)
        except httpx.HTTPError as error:
            if not status:
                said_so = str(error) or type(error).__name__
                raise ConfigError(f"--url {self._client.base_url}: {said_so}") from None
        return Answer(status, bytes(said))
