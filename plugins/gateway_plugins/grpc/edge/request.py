"""The request of an RPC: it is read, and parsed, when the body of its call is.

So nothing of it is in memory before the caller is known: HTTP/2 lets a caller send 64 KiB of a
message that nobody reads.
"""

import asyncio

from gateway import BadRequest, Body, Call, Caller, CallError, Host
from gateway_plugins.grpc.edge.answers import Asked, Method
from gateway_plugins.grpc.edge.context import Context
from gateway_plugins.grpc.edge.metadata import add_meta, headers_of

LARGE = 1024 * 1024
"""Bytes of a request from which on a thread parses it: the event loop has other callers."""

USUAL = "/v1/chat/completions"
"""Path of a call whose request cannot be parsed."""


class RequestTimeout(CallError):
    """The request was not there within `timeouts.idle`."""

    status = 408
    code = "request_body_timeout"
    type = "invalid_request_error"


class Request:
    """Makes the call of one RPC, and the call's body of the RPC's message."""

    def __init__(self, host: Host, method: Method, context: Context) -> None:
        self._host = host
        self._method = method
        self._context = context
        self._headers = headers_of(context.metadata)
        self._asked: Asked | None = None
        self._error: CallError | None = None
        self._call: Call | None = None

    async def call(self, caller: Caller) -> Call:
        """Return the call, which responds to `caller`.

        If the path of the call is known by the message alone, that is read here.
        """
        path = self._method.path or await self._path()
        limit = self._host.config.server_limits.max_body_bytes
        self._call = Call(
            caller,
            method="POST" if self._asked is None else self._asked.method,
            path=path,
            headers=self._headers,
            body=Body(None, source=self._chunk, limit=limit),
            client=self._context.client,
            frontend=self._context.frontend,
        )
        return self._call

    async def _path(self) -> str:
        try:
            self._asked = await self._read()
        except CallError as error:
            self._error = error  # told once the caller is known
            return USUAL
        return self._asked.path

    async def _chunk(self) -> tuple[bytes, bool]:
        """Return the body of the call, which is one chunk. Raises CallError."""
        if self._error is not None:
            raise self._error
        asked = self._asked or await self._read()
        if self._call is not None:
            add_meta(self._call, self._headers, asked.meta)
        return asked.body(), False

    async def _read(self) -> Asked:
        seconds = self._host.config.timeouts.idle
        try:
            async with asyncio.timeout(seconds):
                message = await self._context.read()
        except TimeoutError:
            raise RequestTimeout(f"the request did not come within {seconds} s") from None
        if message is None:
            raise BadRequest("the RPC has no request")
        if len(message) >= LARGE:
            return await asyncio.to_thread(self._method.read, message)
        return self._method.read(message)
