"""A request to the gateway itself, with its input converted to typed Structs."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from gateway.calls.body import Body, invalid_json, receive_chunk
from gateway.calls.records import Principal
from gateway.config import Config
from gateway.config.messages import dotted, line
from gateway.config.misfit import Misfit, misfit
from gateway.errors import (
    NOT_JSON,
    BadRequest,
    BodyTooLarge,
    CallerGone,
)
from gateway.headers import Headers, get_header, path_of
from gateway.telemetry.trace_context import MAX_TRACEPARENT

T = TypeVar("T")

ONCE = "give it once"
"""What to do about a parameter of a query string that is given twice."""


class ControlRequest:
    """A request to the gateway itself.

    `params` are the named parts of the path, decoded. `principal` is None if no plugin
    authenticates, or if the route is open to anybody.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        params: Mapping[str, str],
        principal: Principal | None,
        settings: Config,
    ) -> None:
        self.params = params
        self.principal = principal
        self.path = path_of(scope)
        self._query: bytes = scope.get("query_string", b"")
        self._headers: Headers = scope["headers"]
        self._receive = receive
        self._idle_timeout = settings.timeouts.idle
        self._body = Body(source=self._next_chunk, limit=settings.server_limits.max_body_bytes)

    def header(self, name: str) -> str | None:
        """Return the first value of a request header, or None. `name` is case-insensitive."""
        value = get_header(self._headers, name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    @property
    def traceparent(self) -> str | None:
        """The header of this name, to be kept for later calls; None if it cannot be valid."""
        value = self.header("traceparent") or ""
        return value if 0 < len(value) <= MAX_TRACEPARENT and value.isascii() else None

    def query(self, type_: type[T]) -> T:
        """Parse the query string as a Struct.

        Raises BadRequest, which names the parameter, also for one that is given twice.
        """
        found: dict[str, str] = {}
        for name, value in parse_qsl(self._query.decode("latin-1"), keep_blank_values=True):
            if name in found:
                repeated = line("the query string names a parameter twice", dotted("", name), ONCE)
                raise BadRequest(repeated, param=name)
            found[name] = value
        try:
            return msgspec.convert(found, type_, strict=False)
        except msgspec.ValidationError:
            fault = misfit(found, type_, strict=False)
            raise _refusal("query string", fault and fault.without_null()) from None

    async def body(self) -> bytes:
        """Return the whole body as it came. Raises BodyTooLarge; BodyTimeout; CallerGone."""
        return await self._body.read()

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        """Yield the chunks of the body as they arrive; `limit` replaces that of the configuration.

        The body can be read only once. Raises BodyTooLarge, before anything is read if the length
        says so; BodyTimeout; CallerGone.
        """
        length, left = self.header("content-length") or "", limit
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        body = Body(source=self._next_chunk)
        async for chunk in body.stream():
            left -= len(chunk)
            if left < 0:
                raise _too_large(limit)
            yield chunk

    async def json(self, type_: type[T]) -> T:
        """Parse the body as a Struct.

        Raises BadRequest, which names the field; InvalidJSON; BodyTooLarge; BodyTimeout.
        """
        data = await self._body.read()
        try:
            return msgspec.json.decode(data, type=type_)
        except msgspec.ValidationError:
            raise _refusal("request body", _fault(data, type_)) from None
        except NOT_JSON as error:
            raise invalid_json(data, error) from None

    async def unless_gone(self, result: Coroutine[Any, Any, T]) -> T:
        """Await `result` for as long as the caller stays; if it leaves, raise CallerGone.

        For what takes long. Reads the body first, so it raises what `body` does, too.
        """
        task = asyncio.ensure_future(result)
        try:
            await self._body.read()
            left = asyncio.ensure_future(self._receive())
            await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
            left.cancel()
            if task.done():
                return task.result()
            raise CallerGone("the caller left while its request waited")
        finally:
            task.cancel()

    async def _next_chunk(self) -> tuple[bytes, bool]:
        return await receive_chunk(self._receive, self._idle_timeout)


def _too_large(limit: int) -> BodyTooLarge:
    message = f"the request body is larger than {limit} bytes"
    return BodyTooLarge(message, headers=((b"connection", b"close"),))


def _fault(data: bytes, type_: Any) -> Misfit | None:
    """Return the field of the JSON in `data` that is at fault; None if it is not JSON."""
    try:
        return misfit(json.loads(data), type_)
    except (ValueError, RecursionError):
        return None


def _refusal(where: str, fault: Misfit | None) -> BadRequest:
    message = f"the {where} is not what is expected here"
    if fault is None:
        return BadRequest(message)
    return BadRequest(line(message, fault.name, fault.problem), param=fault.name or None)


Handler = Callable[[ControlRequest], Awaitable[Any]]
"""Returns a Starlette Response, or a value to send as JSON with status 200; may raise CallError."""
