"""Answers of a caller's connection to requests that no application sees; each closes."""

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import CallError, InvalidHTTP, NotSupported
from gateway.frontends.uvicorn import STATUS_LINES, DirectCaller
from gateway.headers import get_header, request_id

VERSIONS = frozenset({"1.1", "1.0"})

USUAL = frozenset({"GET", "POST"})
"""Methods that are never refused here."""

NO_TUNNEL = NotSupported("the gateway opens no tunnels (CONNECT)")


def refused(request: DirectCaller) -> ASGIApp | None:
    """Return what refuses a request that is of no use here, whatever its path; None if it is."""
    if request.version not in VERSIONS:
        return refusing(InvalidHTTP("only HTTP/1.1 and HTTP/1.0 are served here"))
    return refusing(NO_TUNNEL) if request.method == "CONNECT" else None


def refusing(error: CallError) -> ASGIApp:
    """Return an application that answers every request with `error`, and closes."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        body, given = error.body(), get_header(scope["headers"], b"x-request-id")
        lines = [*_head_of(body), (b"x-request-id", request_id(given).encode())]
        await send({"type": "http.response.start", "status": error.status, "headers": lines})
        await send({"type": "http.response.body", "body": body})

    return refuse


def closing_response(error: CallError) -> bytes:
    """Return the whole response to a request that could not be read."""
    body = error.body()
    lines = [*_head_of(body), (b"x-request-id", request_id(None).encode()), *error.headers]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return STATUS_LINES[error.status] + head + b"\r\n" + body


def _head_of(body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the lines of an error after which the connection is closed."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
