"""The HTTP endpoint of one method."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway import (
    BadRequest,
    CallerGone,
    CorsPolicy,
    Headers,
    Host,
    is_preflight,
)
from gateway_plugins.grpc.connect.codec import from_json
from gateway_plugins.grpc.connect.formats import Format, content_type, formats
from gateway_plugins.grpc.connect.reading import Incoming, metadata_of, seconds_of
from gateway_plugins.grpc.connect.replying import Reply
from gateway_plugins.grpc.edge.calling import LATE, LEFT
from gateway_plugins.grpc.edge.context import Gone
from gateway_plugins.grpc.served import Served
from gateway_plugins.grpc.status import Status, of_error

GRACE = 0.01
"""Seconds by which a call is ended after its deadline: clocks differ, and it must have passed."""


def routes(host: Host, served: Served) -> Sequence[BaseRoute]:
    """Return a route for each method, which identifies its caller itself."""
    return [
        host.carried(Route(name, Endpoint(host, served, name), methods=["POST", "OPTIONS"]))
        for name in served.methods
    ]


class Endpoint:
    """An ASGI application."""

    def __init__(self, host: Host, served: Served, method: str) -> None:
        self._host = host
        self._served = served
        self._method = method
        self._signature = served.messages.signature(method)
        self._formats = formats(streams=self._signature.streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cors = CorsPolicy(self._host.config.cors)
        headers: Headers = scope["headers"]
        lines = cors.lines(headers) if cors.decides else ()
        format_ = self._formats.get(content_type(headers))
        if scope["method"] == "OPTIONS" and cors.decides and is_preflight(headers):
            await cors.preflight(headers)(scope, receive, send)
        elif scope["method"] != "POST" or format_ is None:
            await self._refusal(scope["method"])(scope, receive, send)
        else:
            settings = self._host.config
            incoming = Incoming(scope, receive, format_, settings, self._decoder(format_))
            reply = Reply(
                incoming,
                send,
                self._served.messages,
                format_,
                method=self._method,
                response=self._signature.response,
                metadata=metadata_of(headers),
                client=_client(scope),
                patience=settings.timeouts.idle,
                lines=lines,
            )
            await self._answer(headers, incoming, reply)

    def _refusal(self, method: str) -> Response:
        if method != "POST":
            return Response(status_code=405, headers={"allow": "POST"})
        return Response(status_code=415, headers={"accept-post": ", ".join(self._formats)})

    def _decoder(self, format_: Format) -> Callable[[bytes], bytes]:
        if not format_.is_json:
            return bytes
        return partial(from_json, self._served.messages, self._signature.request)

    async def _answer(self, headers: Headers, incoming: Incoming, reply: Reply) -> None:
        try:
            try:
                reply.seconds_left = seconds_of(headers, reply.frontend)
            except BadRequest as error:
                await reply.end(of_error(error, {}), 0)
            else:
                await reply.end(*await self._run(incoming, reply))
        except Gone:
            if reply.is_cut:
                raise CallerGone("the caller does not read") from None
        finally:
            incoming.close()

    async def _run(self, incoming: Incoming, reply: Reply) -> tuple[Status, int]:
        """Carry the RPC until it ends, its caller leaves, or the caller's deadline has passed."""
        own = asyncio.current_task()

        def end() -> None:
            if own is not None and not own.cancelling():  # once: the call ends by its own rules
                own.cancel()

        incoming.left = end
        loop, left = asyncio.get_running_loop(), reply.seconds_left
        deadline = None if left is None else loop.call_later(left + GRACE, end)
        try:
            return await self._served.methods[self._method](reply)
        except asyncio.CancelledError:
            return (LATE if deadline is not None and deadline.when() <= loop.time() else LEFT), 0
        finally:
            incoming.left = _nothing
            if deadline is not None:
                deadline.cancel()


def _client(scope: Scope) -> str | None:
    return scope["client"][0] if scope.get("client") else None


def _nothing() -> None: ...
