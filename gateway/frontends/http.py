"""The ASGI edge: turns an HTTP request into a Call, and returns the response to the server."""

from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from gateway.calls.body import Body
from gateway.calls.call import Call
from gateway.config import Config
from gateway.errors import CallerGone, NotFound
from gateway.fleet.registry import Workers
from gateway.frontends.asgi import ASGICaller
from gateway.frontends.cors import CorsPolicy, Lines, Preflights, is_preflight
from gateway.frontends.uvicorn import DirectCaller
from gateway.headers import Headers, get_header, path_of
from gateway.pipeline.proxy import Proxy


class Edge:
    """The ASGI endpoint of all paths that are forwarded to workers."""

    def __init__(self, proxy: Proxy, workers: Workers, settings: Config) -> None:
        self._proxy = proxy
        self._preflights = Preflights(workers)
        self._added: dict[str, str | None] = {}
        self.adopt(settings)

    def adopt(self, settings: Config) -> None:
        """Use these settings for new requests."""
        self._limits = settings.server_limits
        self._idle_timeout = settings.timeouts.idle
        self._extra = frozenset(settings.extra_paths)
        self._cors = CorsPolicy(settings.cors)

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
        caller = DirectCaller.behind(receive, send, self._idle_timeout) or ASGICaller(
            receive, send, self._idle_timeout
        )
        client = scope.get("client")
        call = Call(
            caller,
            method=scope["method"],
            path=path,
            query=scope.get("query_string", b""),
            headers=headers,
            body=Body(
                caller.whole_body(),
                source=caller.next_chunk,
                length=_length(get_header(headers, b"content-length")),
                limit=self._limits.max_body_bytes,
            ),
            session_id=session_id,
            client=client[0] if client else None,
            scope=self._added.get(path),
        )
        if self._cors.decides:
            call.add_lines(*self._cors.lines(headers))
        caller.watch(lambda: call.cancel(CallerGone("the caller left")))
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

    def carries(self, path: str) -> bool:
        """Whether `path` is under /v1/, in the configuration, or added by a plugin.

        False for a path that climbs out of /v1/.
        """
        if path in self._extra or path in self._added:
            return True
        return path.startswith("/v1/") and not _climbs(path)


def _climbs(path: str) -> bool:
    """Whether a server behind the gateway could resolve `path` to another place."""
    if "." not in path and "%" not in path and "\\" not in path:
        return False
    plain = unquote(unquote(path)).replace("\\", "/")
    return any(part in (".", "..") for part in plain.split("/"))


def _length(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() else None
