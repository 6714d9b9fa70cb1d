"""The ASGI edge: turns an HTTP request into a Call, and returns the response to the server."""

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from gateway.calls.body import Body
from gateway.calls.call import Call
from gateway.config import Config
from gateway.errors import NotFound
from gateway.fleet.registry import Workers
from gateway.frontends.asgi import ASGICaller
from gateway.frontends.cors import CorsPolicy, Lines, Preflights, is_preflight
from gateway.frontends.uvicorn import DirectCaller
from gateway.frontends.way import Carried, CarriedRoute
from gateway.headers import Headers, get_header, path_of
from gateway.pipeline.proxy import Proxy


class Edge:
    """The ASGI endpoint of all paths that are forwarded to workers."""

    def __init__(self, proxy: Proxy, workers: Workers, settings: Config) -> None:
        self._proxy = proxy
        self._preflights = Preflights(workers)
        self._added: dict[str, str | None] = {}
        self._ways: Sequence[CarriedRoute] = ()
        self._claimed: tuple[str, ...] = ()
        self.adopt(settings)

    def adopt(self, settings: Config) -> None:
        """Use these settings for new requests."""
        self._limits = settings.server_limits
        self._idle_timeout = settings.timeouts.idle
        self._extra = frozenset(settings.extra_paths)
        self._cors = CorsPolicy(settings.cors)

    def take(self, request: DirectCaller) -> Coroutine[Any, Any, None] | None:
        """Return what carries a request of the gateway's own server; None if a route has to."""
        path, session_id = request.path, None
        if path.startswith(self._claimed) or not self._carries_always(path):
            found = self._find(path)
            if found is None:
                return None
            path, session_id = found
        if request.method == "OPTIONS" and is_preflight(request.headers):
            return None
        request.idle_timeout = self._idle_timeout
        return self._carry(request, path, session_id)

    def _find(self, path: str) -> Carried | None:
        """Return the path at the worker, and the session; None if a route may be at `path`."""
        for way in self._ways:
            if path.startswith(way.prefix):
                with suppress(Exception):  # the route raises it again, and is answered for it
                    return way.find(path)
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.serve(scope, receive, send, path=path_of(scope))

    async def serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        path: str,
        session_id: str | None = None,
    ) -> None:
        """Forward one HTTP request. `path` is the path at the worker, percent-encoding kept.

        Raises NotFound if the path is not forwarded.
        """
        headers = scope["headers"]
        if not self.carries(path):
            raise NotFound(f"there is nothing at {path}")
        if scope["method"] == "OPTIONS" and is_preflight(headers):
            if self._cors.decides:
                await self._cors.preflight(headers)(scope, receive, send)
                return
            if self._added.get(path) is None:  # else its scope is asked for
                await (await self._preflights.ask(path, headers))(scope, receive, send)
                return
        caller = DirectCaller.behind(receive, send) or ASGICaller(scope, receive, send)
        caller.idle_timeout = self._idle_timeout
        await self._carry(caller, path, session_id)

    async def _carry(
        self, caller: DirectCaller | ASGICaller, path: str, session_id: str | None
    ) -> None:
        headers, data = caller.headers, caller.whole_body()
        call = Call(
            caller,
            method=caller.method,
            path=path,
            query=caller.query,
            headers=headers,
            body=Body(
                data,
                source=caller.next_chunk,
                length=_length_of(headers) if data is None else None,
                limit=self._limits.max_body_bytes,
            ),
            session_id=session_id,
            client=caller.client,
            scope=self._added.get(path),
            started=caller.began,
        )
        if self._cors.decides:
            call.add_lines(*self._cors.lines(headers))
        caller.watch(call)
        try:
            await self._proxy.dispatch(call)
            await caller.settle()
        finally:
            caller.release()

    def cors_lines(self, headers: Headers) -> Lines:
        """Return what a browser has to be told beside a response to a request with `headers`."""
        return self._cors.lines(headers) if self._cors.decides else ()

    def carry_also(self, *paths: str, scope: str | None = None) -> None:
        """Forward these exact paths too: for a plugin with `routes` that lead here.

        `scope` is the scope that a caller needs; None: that of the calls of models.
        """
        self._added.update(dict.fromkeys(paths, scope))

    def lead(self, ways: Sequence[CarriedRoute]) -> None:
        """Carry the requests for these routes without the router, if they come in directly."""
        self._ways = ways

    def leave(self, claimed: Sequence[str]) -> None:
        """Let the router decide about paths that begin with one of these: routes may be there."""
        self._claimed = tuple(claimed)

    def is_claimed(self, path: str) -> bool:
        """Whether a route of the gateway itself may be at `path`, under /v1/."""
        return path.startswith(self._claimed)

    def carries(self, path: str) -> bool:
        """Whether `path` is under /v1/, in the configuration, or added by a plugin.

        False for a path that climbs out of /v1/.
        """
        return self._carries_always(path) or path in self._added

    def scope_of(self, path: str) -> str | None:
        """Return the scope that `carry_also` demands of callers of `path`; None: none of its own.

        Raises NotFound if the path is not forwarded.
        """
        if not self.carries(path):
            raise NotFound(f"there is nothing at {path[:200]}")
        return self._added.get(path)

    def _carries_always(self, path: str) -> bool:
        if path.startswith("/v1/"):
            is_plain = "." not in path and "%" not in path and "\\" not in path
            return is_plain or not _climbs(path) or path in self._extra
        return path in self._extra


def _climbs(path: str) -> bool:
    """Whether a server behind the gateway could resolve `path` to another place."""
    plain = unquote(unquote(path)).replace("\\", "/")
    return any(part in (".", "..") for part in plain.split("/"))


def _length_of(headers: Headers) -> int | None:
    value = get_header(headers, b"content-length")
    return int(value) if value is not None and value.isdigit() else None
