"""The ASGI application behind the routes: versions, methods, errors and CORS of the protocol."""

import logging
from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from gateway import (
    CallerGone,
    CallError,
    CorsPolicy,
    Headers,
    Host,
    StorageError,
    is_preflight,
)
from gateway_plugins.uploads.errors import UnknownVersion, of_disk
from gateway_plugins.uploads.tus.fields import ALGORITHMS, EXPOSED, EXTENSIONS, VERSION
from gateway_plugins.uploads.tus.protocol import Protocol
from gateway_plugins.uploads.tus.request import Request

log = logging.getLogger("gateway.uploads")

BORNE_BY_HEAD = 429
"""From this status on clients take HEAD's answer for the loss of the upload."""

_EXPOSE = b"access-control-expose-headers"


def routes(host: Host, protocol: Protocol) -> Sequence[BaseRoute]:
    """Return the routes, which identify their callers themselves."""
    endpoint = Endpoint(host, protocol)
    found: list[BaseRoute] = []
    for path in ("/upload", "/upload/", "/upload/{id}"):
        found += [
            host.carried(Route(path, endpoint)),
            host.guarded(Route(f"/v1{path}", endpoint), scope=None),
        ]
    return found


class Endpoint:
    """An ASGI application."""

    def __init__(self, host: Host, protocol: Protocol) -> None:
        self._host = host
        self._protocol = protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._respond(request)
        lines = self._cors(request.headers)
        response.raw_headers = [*response.raw_headers, *lines]
        await response(scope, receive, send)

    def _cors(self, headers: Headers) -> Headers:
        policy = CorsPolicy(self._host.config.cors)
        lines = policy.lines(headers) if policy.decides else ()
        return [(name, EXPOSED.encode() if name == _EXPOSE else value) for name, value in lines]

    async def _respond(self, request: Request) -> Response:
        try:
            if request.method == "OPTIONS":
                return self._options(request)
            response = await self._handle(request)
        except CallerGone:
            raise
        except CallError as error:
            response = _refusal(request, error)
        except StorageError as error:
            log.error("%s %s: storage: %s", request.method, request.path, error)
            response = _refusal(request, _Unavailable("the database cannot be used now"))
        except OSError as error:
            response = _refusal(request, of_disk(error))
        except Exception:
            log.exception("%s %s broke", request.method, request.path)
            response = _refusal(request, CallError("the gateway failed on this request"))
        response.headers["tus-resumable"] = VERSION
        return response

    async def _handle(self, request: Request) -> Response:
        handler = self._protocol.handlers(bool(request.id)).get(request.method)
        if handler is None:
            allowed = ", ".join(("OPTIONS", *self._protocol.handlers(bool(request.id))))
            raise _NotAllowed("no such method here", headers=((b"allow", allowed.encode()),))
        if request.method != "GET" and request.header("tus-resumable") != VERSION:
            raise UnknownVersion(
                f"this is TUS {VERSION}; the request says so in `Tus-Resumable`",
                headers=((b"tus-version", VERSION.encode()),),
            )
        await request.identify(self._host)
        return await handler(request)

    def _options(self, request: Request) -> Response:
        policy = CorsPolicy(self._host.config.cors)
        response = Response(status_code=204)
        if policy.decides and is_preflight(request.headers):
            try:
                response = policy.preflight(request.headers)
            except CallError as error:
                response = _refusal(request, error)
            own = [one for one in response.raw_headers if not _is_of_every_answer(one[0])]
            response.raw_headers = own
        response.headers["tus-version"] = VERSION
        response.headers["tus-resumable"] = VERSION
        response.headers["tus-max-size"] = str(self._protocol.max_bytes)
        response.headers["tus-extension"] = EXTENSIONS
        response.headers["tus-checksum-algorithm"] = ",".join(ALGORITHMS)
        return response


class _NotAllowed(CallError):
    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"


class _Unavailable(CallError):
    status = 503
    code = "storage_unavailable"


def _is_of_every_answer(name: bytes) -> bool:
    """Whether a header of CORS is added to every answer, and so is to be left out of this one."""
    return name in (b"access-control-allow-origin", _EXPOSE, b"vary")


def _refusal(request: Request, error: CallError) -> Response:
    """Return the answer to an error. Raises CallerGone if no answer is better than this one.

    The body of the request may still be coming, so the connection is closed.
    """
    if request.method == "HEAD" and error.status >= BORNE_BY_HEAD:
        raise CallerGone("clients would begin the upload anew")
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in error.headers}
    if request.has_body:
        headers["connection"] = "close"
    return Response(error.body(), error.status, headers, "application/json")
