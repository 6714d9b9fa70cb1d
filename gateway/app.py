"""The Starlette assembly: routes, lifespan, error pages; Gateway is all of it together."""

import contextlib
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from types import TracebackType
from typing import Self

from sqlite_utils.migrations import Migrations
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from gateway.admin import WorkersAdmin
from gateway.config import Config, is_loopback
from gateway.control import ControlRoute, Handler
from gateway.edge import Edge, path_of
from gateway.errors import (
    BadRequest,
    CallError,
    ConfigError,
    InternalError,
    NotFound,
)
from gateway.local import LocalHandler, LocalWorker
from gateway.plugins import Plugins
from gateway.proxy import Proxy
from gateway.storage import Storage
from gateway.workers import Workers

log = logging.getLogger("gateway")


class Gateway:
    """One gateway: its plugins, its workers, its calls. An ASGI application.

    `async with` enters the plugins' lifespans and leaves them; an ASGI server does the same by the
    lifespan protocol. `carry` is for plugins with routes of their own: it carries an HTTP request
    as a call for another path (see Edge.serve). Raises ConfigError where the configuration cannot
    be used.
    """

    def __init__(self, config: Config, *, local_handler: LocalHandler | None = None) -> None:
        self.config = config
        self.plugins = Plugins(config.plugins)
        self.chains = self.plugins.chains()
        _refuse_exposure(config, authenticated=bool(self.chains.authenticate))
        self.workers = Workers(config)
        if local_handler is not None:
            self.workers.all = [LocalWorker(local_handler, config)]
        self.storage = Storage(config, self._migrations())
        self.proxy = Proxy(self.chains, self.workers, config, self.storage)
        self.edge = Edge(self.proxy, config)
        self.carry = self.edge.serve
        self._running = contextlib.AsyncExitStack()
        self._router = Router(self._routes(), lifespan=self._lifespan, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's application would wrap `send`, and asgi.py must see the server's own. Its
        # router is passed by where the path alone decides: it costs a tenth of a short call.
        try:
            if scope["type"] == "http" and scope["path"].startswith("/v1/"):
                await self.edge.serve(scope, receive, send, path=path_of(scope))
            else:
                scope["app"] = self  # without it the router answers in plain text what it has not
                await self._router(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            await _page(error, scope["path"])(scope, receive, send)

    def _migrations(self) -> list[Migrations]:
        found = []
        for hook in self.plugins.hooks["migrations"]:
            with self.plugins.blamed(hook.plugin):
                found.append(hook.run())
        return found

    def _routes(self) -> list[BaseRoute]:
        carried = [Route(path, self.edge) for path in ("/v1/{path:path}", *self.config.extra_paths)]
        added: list[BaseRoute] = []
        for hook in self.plugins.hooks["routes"]:
            with self.plugins.blamed(hook.plugin):
                added += hook.run(self)
        return [*carried, Route("/health", self._health), *self._admin(), *added]

    def control(self, path: str, **handlers: Handler) -> ControlRoute:
        """A route for those who run the gateway: `control("/jobs/{id}", GET=show, DELETE=cancel)`.

        Where any plugin authenticates, it refuses whom none of them knows.
        """
        return ControlRoute(path, handlers, self.chains, self.config)

    def _admin(self) -> list[ControlRoute]:
        workers = WorkersAdmin(self.workers)
        return [
            self.control("/health/workers", GET=workers.health),
            self.control("/admin/workers", GET=workers.list_all, POST=workers.add),
            self.control("/admin/workers/{worker_id}", DELETE=workers.remove),
        ]

    async def _health(self, _: object) -> Response:
        """200 even when degraded: calls go on."""
        storage = self.storage.health
        if storage.state == "ok":
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "degraded", "reason": f"storage: {storage.reason}"})

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        async with self:
            yield

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.workers.close)
            await self.storage.open()
            stack.push_async_callback(self.storage.close)
            for hook in self.plugins.hooks["lifespan"]:
                with self.plugins.blamed(hook.plugin):
                    await stack.enter_async_context(hook.run(self))
            self._running = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(0)
        await self._running.__aexit__(kind, error, trace)

    async def drain(self, seconds: float | None) -> None:
        """Take no new calls, give those in flight `seconds` to finish, and end what is left.

        Who is left is told: 503 `draining`, or in the middle of a stream an `error` event.
        """
        await self.proxy.drain(seconds)


def create_app(config: Config, *, local_handler: LocalHandler | None = None) -> Gateway:
    """The gateway as an ASGI application, for any server. Raises ConfigError.

    With `local_handler` a function answers in place of the configured workers, see gateway.local.
    """
    return Gateway(config, local_handler=local_handler)


def _refuse_exposure(config: Config, *, authenticated: bool) -> None:
    if authenticated or config.allow_anonymous or is_loopback(config.host):
        return
    raise ConfigError(
        f"host {config.host}: other machines can reach it, and no plugin authenticates callers, "
        "so anybody could use the workers; enable an authenticating plugin, or listen on "
        "127.0.0.1, or set `allow_anonymous: true`"
    )


def _page(error: Exception, path: str) -> Response:
    """What a route raised, in the envelope that callers can read."""
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
