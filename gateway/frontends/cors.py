"""CORS: which web pages may make calls, and the preflight that their browser sends before.

A preflight has no key, because no browser sends one with it. If the operator names origins, the
gateway answers it, and its own headers replace those of the workers. Otherwise a worker is asked:
the engines have a CORS layer of their own. No plugin sees a preflight.
"""

import re

from starlette.responses import Response

from gateway.config import Cors
from gateway.errors import Forbidden, NoWorker, TooManyCalls
from gateway.fleet.registry import Workers
from gateway.headers import CORS_HEADERS, Headers, get_header

ANY = "*"

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"

EXPOSED = (
    b"x-request-id, retry-after, x-should-retry, x-gateway-worker, x-gateway-attempts, "
    b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
    b"x-ratelimit-resets-at, *"
)
"""Headers that a page may read; the star stands for all, in requests without cookies."""

ASKED_OF_WORKERS = frozenset(
    (b"origin", b"access-control-request-method", b"access-control-request-headers")
)

MAX_ASKED = 32
"""Maximum number of preflights at workers at a time: anybody can send them."""

TIMEOUT = 5.0
"""Seconds that a worker has to answer one."""

Lines = tuple[tuple[bytes, bytes], ...]

_VARY = (b"vary", b"origin")
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]*")


class CorsPolicy:
    """The rules of the operator; `decides` is false if no origin is named."""

    def __init__(self, settings: Cors) -> None:
        origins = frozenset(origin.lower().encode("latin-1") for origin in settings.origins)
        self.decides = bool(origins)
        self._origins = origins
        self._any = ANY.encode() in origins
        self._max_age = b"%d" % settings.max_age

    def lines(self, headers: Headers) -> Lines:
        """Return the lines that tell a browser whether a page may read the response."""
        if self._any:
            return _allowed(ANY.encode())
        origin = get_header(headers, b"origin")
        if origin is None or origin not in self._origins:
            return (_VARY,)
        return (*_allowed(origin), _VARY)

    def preflight(self, headers: Headers) -> Response:
        """Answer a preflight with `headers`. Raises Forbidden if its origin is not allowed."""
        lines = [*self.lines(headers)]
        if len(lines) == 1:
            raise Forbidden(
                "pages of this origin may not make calls (cors.origins)",
                code="origin_not_allowed",
                headers=(_VARY,),
            )
        asked = get_header(headers, b"access-control-request-headers") or b""
        lines += [
            (b"access-control-allow-methods", METHODS.encode()),
            (b"access-control-allow-headers", asked if _NAMES.fullmatch(asked) else b"*"),
            (b"access-control-max-age", self._max_age),
        ]
        return _response(204, lines)


class Preflights:
    """Asks workers what they answer to a preflight."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._asked = 0

    async def ask(self, path: str, headers: Headers) -> Response:
        """Return what the answer of one worker says of CORS, with its status.

        Raises NoWorker, TooManyCalls, UpstreamError, or UpstreamTimeout.
        """
        fit = self._workers.serving().fit
        if not fit:
            raise NoWorker("no worker can take this call now")
        if self._asked >= MAX_ASKED:
            raise TooManyCalls(f"{MAX_ASKED} preflights are in flight already")
        self._asked += 1
        try:
            answer = await self._workers.least_loaded(fit).request(
                "OPTIONS",
                path,
                headers=[line for line in headers if line[0] in ASKED_OF_WORKERS],
                timeout=TIMEOUT,
            )
        finally:
            self._asked -= 1
        kept = CORS_HEADERS | {b"vary", b"allow"}
        return _response(answer.status, [line for line in answer.headers if line[0] in kept])


def is_preflight(headers: Headers) -> bool:
    """Whether an OPTIONS request is one of those that a browser sends before a call."""
    return (
        get_header(headers, b"origin") is not None
        and get_header(headers, b"access-control-request-method") is not None
        and get_header(headers, b"transfer-encoding") is None
        and get_header(headers, b"content-length") in (None, b"0")
    )


def _allowed(origin: bytes) -> Lines:
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", EXPOSED),
    )


def _response(status: int, lines: Headers) -> Response:
    response = Response(status_code=status)
    response.raw_headers = [*response.raw_headers, *lines]
    return response
