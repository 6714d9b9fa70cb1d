"""The response of an RPC that came by HTTP."""

import asyncio
import math

import msgspec
from starlette.types import Send

from gateway import Headers
from gateway_plugins.grpc.connect.codec import to_json
from gateway_plugins.grpc.connect.ends import (
    HTTP_STATUS,
    error_of,
    last_of_connect,
    last_of_web,
)
from gateway_plugins.grpc.connect.formats import GRPC_WEB, Format, frame
from gateway_plugins.grpc.connect.reading import Incoming
from gateway_plugins.grpc.edge.context import Gone, Metadata
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.status import Code, Status

LEFT_OUT = frozenset((b"content-type", b"content-length"))


class Reply:
    """A Context, see gateway_plugins.grpc.edge.context.

    `response` is the full name of the method's messages, `patience` the seconds that a caller has
    to read; None: any time. `lines` are headers of every response. `is_cut`: the caller has not
    read in time, and nothing can be sent.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        incoming: Incoming,
        send: Send,
        messages: Messages,
        format_: Format,
        *,
        method: str,
        response: str,
        metadata: Metadata,
        client: str | None,
        patience: float | None,
        lines: Headers,
    ) -> None:
        self.frontend = format_.frontend
        self.method = method
        self.metadata = metadata
        self.client = client
        self.seconds_left: float | None = None
        self.is_cut = False
        self.read = incoming.read
        self._send = send
        self._messages = messages
        self._format = format_
        self._response = response
        self._patience = patience
        self._lines = [*lines]
        self._whole = b""
        self._has_begun = False

    async def begin(self, lines: Headers) -> None:
        self._lines += [line for line in lines if line[0] not in LEFT_OUT]
        if self._format.framed:
            await self._start(200, self._format.content_type)

    async def send(self, message: bytes) -> None:
        data = to_json(self._messages, self._response, message) if self._format.is_json else message
        if self._format.framed:
            await self._body(frame(data), more=True)
        else:
            self._whole = data

    async def end(self, status: Status, sent: int) -> None:
        """Send what is left of a response that had `sent` messages. Raises Gone."""
        if self._format.framed:
            if not self._has_begun:
                await self._start(200, self._format.content_type)
            last = last_of_web if self.frontend == GRPC_WEB else last_of_connect
            await self._body(last(self._messages, status, sent), more=False)
        elif status.code is Code.OK:
            await self._start(200, self._format.content_type, len(self._whole))
            await self._body(self._whole, more=False)
        else:
            await self._fail(status)

    async def _fail(self, status: Status) -> None:
        if status.retry_after is not None:
            seconds = math.ceil(status.retry_after)
            self._lines.append((b"retry-after", b"%d" % seconds))
        if request_id := status.facts.get("request_id"):
            self._lines.append((b"x-request-id", request_id.encode()))
        body = msgspec.json.encode(error_of(self._messages, status))
        await self._start(HTTP_STATUS[status.code], "application/json", len(body))
        await self._body(body, more=False)

    async def _start(self, status: int, content_type: str, size: int | None = None) -> None:
        self._has_begun = True
        headers = [(b"content-type", content_type.encode()), *self._lines]
        if size is not None:
            headers.append((b"content-length", b"%d" % size))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, data: bytes, *, more: bool) -> None:
        if self.is_cut:
            raise Gone("the caller does not read")
        try:
            async with asyncio.timeout(self._patience):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            self.is_cut = True
            raise Gone("the caller does not read") from None
        except OSError:
            raise Gone("the caller left") from None
