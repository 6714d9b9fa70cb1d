"""The response to a request on which a route raised an error."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from gateway.errors import BadRequest, CallError, InternalError, NotFound
from gateway.headers import Headers, get_header, request_id

log = logging.getLogger("gateway")


def error_page(error: Exception, scope: Scope, lines: Headers = ()) -> Response:
    """Convert an exception of a route into a response with the error envelope and `lines`."""
    path = scope["path"]
    if isinstance(error, HTTPException) and error.status_code == 404:
        error = NotFound(f"there is nothing at {path}")
    headers = {name.decode(): value.decode("latin-1") for name, value in lines}
    headers["x-request-id"] = request_id(get_header(scope["headers"], b"x-request-id"))
    if isinstance(error, HTTPException):
        refused = BadRequest(f"{path}: {HTTPStatus(error.status_code).phrase}")
        headers.update(error.headers or {})
        return Response(refused.body(), error.status_code, headers, "application/json")
    if not isinstance(error, CallError):
        log.error("the route %s broke", path, exc_info=error)
        error = InternalError("the gateway failed on this request")
    headers |= {name.decode("latin-1"): value.decode("latin-1") for name, value in error.headers}
    return Response(error.body(), error.status, headers, "application/json")
