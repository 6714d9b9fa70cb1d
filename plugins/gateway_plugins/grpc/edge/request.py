"""The request of an RPC: it is read, and parsed, when the body of its call is.

So nothing of it is in memory before the caller is known: HTTP/2 lets a caller send 64 KiB of a
message that nobody reads.
"""

import asyncio

from gateway import BadRequest, Body, Call, Caller, CallError, Host
from gateway_plugins.grpc.edge.answers import Answer, Asked, Method
from gateway_plugins.grpc.edge.context import Context
from gateway_plugins.grpc.edge.metadata import (
    add_meta,
    check_credentials,
    check_lines,
    headers_of,
)

LARGE = 1024 * 1024
"""Bytes of a request from which on a thread parses it: the event loop has other callers."""

USUAL = "/v1/chat/completions"
"""Path of a call whose request cannot be parsed."""

UNKNOWN = Asked(USUAL, bytes)
"""Stands for a request that has not been read."""


class RequestTimeout(CallError):
    """The request was not there within `timeouts.idle`."""

    status = 408
    code = "request_body_timeout"
    type = "invalid_request_error"


class Request:
    """Makes the call of one RPC, and the call's body of the RPC's message.

    `answer` is told what the message asks for. `made` is the call, as far as it is known.
    `is_absent`: the caller has sent no message, or one that is too large for the transport.
    """

    def __init__(self, host: Host, method: Method, context: Context, answer: Answer) -> None:
        self.is_absent = False
        self.made: Call | None = None
        self._host = host
        self._method = method
        self._context = context
        self._answer = answer
        self._headers = headers_of(context.metadata)
        self._asked: Asked | None = None
        self._error: CallError | None = None

    async def call(self, caller: Caller) -> Call:
        """Return the call, which responds to `caller`.

        If the path of the call is known by the message alone, that is read here, once the caller is
        known. Raises CallError if the caller cannot be known.
        """
        self.made = call = self._made(caller, self._method.path or USUAL, UNKNOWN)
        check_lines(self._headers, self._host.config.server_limits.max_header_bytes)
        check_credentials(self._headers)
        if self._method.path is None:
            await self._host.identify(call)
            self.made = call = self._made(caller, *await self._path())
        return call

    def _made(self, caller: Caller, path: str, asked: Asked) -> Call:
        limit = self._host.config.server_limits.max_body_bytes
        call = Call(
            caller,
            method=asked.method,
            path=path,
            query=asked.query,
            scope=asked.scope,
            headers=self._headers,
            body=Body(None, source=self._chunk, limit=limit),
            client=self._context.client,
            frontend=self._context.frontend,
            peer_names=self._context.names,
        )
        left = self._context.seconds_left
        call.deadline = None if left is None else call.started + left
        return call

    async def _path(self) -> tuple[str, Asked]:
        try:
            self._asked = asked = await self._read()
        except CallError as error:
            self._error = error  # told as part of the call
            return USUAL, UNKNOWN
        return asked.path, asked

    async def _chunk(self) -> tuple[bytes, bool]:
        """Return the body of the call, which is one chunk. Raises CallError."""
        if self._error is not None:
            raise self._error
        asked = self._asked or await self._read()
        if self.made is not None:
            add_meta(self.made, self._headers, asked.meta)
        return asked.body(), False

    async def _read(self) -> Asked:
        message = await read_message(self._host, self._context)
        if message is None:
            self.is_absent = True
            raise BadRequest("the RPC has no request")
        if len(message) >= LARGE:
            asked = await asyncio.to_thread(self._method.read, message)
        else:
            asked = self._method.read(message)
        self._answer.expect(asked)
        return asked


async def read_message(host: Host, context: Context) -> bytes | None:
    """Return the message of an RPC, None if there is none. Raises CallError, Gone."""
    seconds = host.config.timeouts.idle
    try:
        async with asyncio.timeout(seconds):
            return await context.read()
    except TimeoutError:
        raise RequestTimeout(f"the request did not come within {seconds} s") from None
