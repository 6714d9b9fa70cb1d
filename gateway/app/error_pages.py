"""The response to a request on which a route raised an error."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.errors import (
    BadRequest,
    CallError,
    InternalError,
    NotFound,
)

log = logging.getLogger("gateway")


def error_page(error: Exception, path: str) -> Response:
    """Convert an exception of a route into a response with the error envelope."""
    if isinstance(error, HTTPException) and error.status_code == 404:
        error = NotFound(f"there is nothing at {path}")
    if isinstance(error, HTTPException):
        refused = BadRequest(f"{path}: {HTTPStatus(error.status_code).phrase}")
        return Response(refused.body(), error.status_code, error.headers, "application/json")
    if not isinstance(error, CallError):
        log.error("the route %s broke", path, exc_info=error)
        error = InternalError("the gateway failed on this request")
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in error.headers}
    return Response(error.body(), error.status, headers, "application/json")
