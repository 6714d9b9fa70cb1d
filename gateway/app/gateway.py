"""The application: a Gateway holds plugins, workers, storage and calls together."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from gateway.app.error_pages import error_page
from gateway.app.generation import Generation
from gateway.app.plugin_routes import (
    added_routes,
    beginnings_of,
    carried_routes,
    leads_to_calls,
    routes_in_v1,
)
from gateway.app.reload import Reloader
from gateway.calls.call import Call
from gateway.calls.control_request import Handler
from gateway.calls.in_flight import InFlight
from gateway.calls.records import Outcome, Wanted
from gateway.cluster.peers import Peers
from gateway.config import Config
from gateway.control.routes import ControlRoute
from gateway.control.scoped import CARRIED, ScopedRoute
from gateway.control.workers import WorkersAdmin
from gateway.errors import MIN_RETRY_AFTER, CallerGone, NotFound
from gateway.fleet.persisted import PersistedWorkers
from gateway.fleet.probes import Prober
from gateway.fleet.registry import Workers
from gateway.fleet.replicated import ReplicatedWorkers
from gateway.frontends.http import Edge
from gateway.frontends.uvicorn import DirectCaller
from gateway.frontends.way import CarriedRoute, Find
from gateway.headers import path_of
from gateway.pipeline.local import LocalHandler, LocalWorker
from gateway.pipeline.proxy import Proxy
from gateway.plugins.chains import Chains, Failures, Hook
from gateway.plugins.lifespan import enter_lifespans, leave_lifespans
from gateway.plugins.loader import Plugins
from gateway.storage import Storage
from gateway.telemetry.occupancy import Occupancy

log = logging.getLogger("gateway")

NOBODY_FIT = "workers: none can take calls now"


class Gateway:
    """One gateway: its plugins, its workers, its calls. An ASGI application.

    `async with` enters and leaves the plugins' lifespans; an ASGI server does the same through the
    lifespan protocol. It is the Host of its plugins, see gateway.plugins.host. `source` reads the
    configuration again for a reload; without `source` the gateway cannot reload. The callbacks in
    `reloaded` receive each new configuration; they must not block or raise. `peers` are the other
    processes of this gateway (see docs/processes.md). Raises ConfigError if the configuration
    cannot be used.
    """

    def __init__(
        self,
        config: Config,
        *,
        local_handler: LocalHandler | None = None,
        source: Callable[[], Config] | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.peers = peers or Peers()
        plugins = Plugins(config.plugins)
        self.generation = Generation.of(config, plugins)
        self.kernel = self.chains.kernel
        self.workers = Workers(config)
        self.workers.keepers.join(self.peers)
        if local_handler is not None:
            self.workers.put((LocalWorker(local_handler, config),))
        everyone = plugins.new_since(None)
        migrations = plugins.migrations(only=everyone).values()
        self.storage = Storage(
            config,
            [*PersistedWorkers.migrations(config), *migrations],
            self.peers,
        )
        self._agreed = ReplicatedWorkers(
            self.workers, PersistedWorkers(self.storage, config), self.peers
        )
        self.occupancy = Occupancy()
        self.prober = Prober(self.workers, config.probes)
        self.proxy = Proxy(self.chains, self.workers, config, self.storage)
        self.edge = Edge(self.proxy, self.workers, config)
        self.carry = self.edge.serve
        self.carries = self.edge.carries
        self.dispatch = self.proxy.dispatch
        self.overhead = self.proxy.overhead
        self._requests: InFlight[object] = InFlight()
        self.in_flight: tuple[InFlight[Any], ...] = (self.proxy.in_flight, self._requests)
        self.reloaded: list[Callable[[Config], None]] = [
            lambda config: self.prober.change(config.probes)
        ]
        self.reloader = Reloader(self, source)
        self._running = contextlib.AsyncExitStack()
        self._own_routes: Sequence[BaseRoute] = self._admin()
        self._router = Router(lifespan=self._lifespan, redirect_slashes=False)
        self.adopt(replace(self.generation, routes=added_routes(plugins, self, everyone)))

    @property
    def config(self) -> Config:
        return self.generation.config

    @property
    def plugins(self) -> Plugins:
        return self.generation.plugins

    @property
    def chains(self) -> Chains:
        return self.generation.chains

    def adopt(self, generation: Generation) -> None:
        """Use `generation` for new calls and requests; those in flight keep their own."""
        self.generation = generation
        self.proxy.adopt(generation.chains, generation.config)
        self.edge.adopt(generation.config)
        carried = ("/v1/{path:path}", *generation.config.extra_paths)
        added = [route for routes in generation.routes.values() for route in routes]
        self.edge.lead(carried_routes(added))
        in_v1 = routes_in_v1(added)
        self.edge.leave(beginnings_of(in_v1))
        self._router.routes = [
            *in_v1,
            *(self.carried(Route(path, self.edge)) for path in carried),
            *self._own_routes,
            *(route for route in added if route not in in_v1),
            # Last, so that a plugin's own /health takes precedence.
            self.guarded(Route("/health", self._health), scope=None),
            self.guarded(Route("/ready", self._ready), scope=None),
        ]
        for callback in self.reloaded:
            callback(generation.config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's application would wrap `send`, but gateway.frontends.uvicorn needs the
        # server's own. If the path alone decides, the router is bypassed: it costs a tenth of a
        # short call.
        try:
            of_v1 = scope["type"] == "http" and scope["path"].startswith("/v1/")
            if of_v1 and not self.edge.is_claimed(path := path_of(scope)):
                await self.edge.serve(scope, receive, send, path=path)
            else:
                scope["app"] = self  # without it the router answers unknown paths in plain text
                await self._route(scope, receive, send)
        except CallerGone:  # of a route: its caller does not read, and is waited for no longer
            if (caller := DirectCaller.behind(receive, send)) is not None:
                caller.cut()
        except Exception as error:
            if scope["type"] != "http":
                raise
            of_a_call = scope["path"].startswith("/v1/") or CARRIED in scope
            lines = self.edge.cors_lines(scope["headers"]) if of_a_call else ()
            await error_page(error, scope, lines)(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = object()
        if scope["type"] == "http":
            self._requests.add(request)
        try:
            await self._router(scope, receive, send)
        finally:
            self._requests.end(request)

    @property
    def draining(self) -> bool:
        """Whether new calls are rejected because the gateway shuts down."""
        return self.proxy.draining

    async def until_draining(self) -> None:
        await self.proxy.drains.wait()

    @property
    def failures(self) -> Failures:
        return self.chains.failures

    @property
    def authenticates(self) -> bool:
        return bool(self.generation.chains.authenticate)

    @property
    def calls_in_flight(self) -> Collection[Call]:
        return [exchange.call for exchange in self.proxy.in_flight]

    def hooks(self, name: str) -> Sequence[Hook]:
        return self.plugins.hooks[name]

    def control(self, path: str, *, scope: Wanted | None, **handlers: Handler) -> ControlRoute:
        """Return a route for operators: `control("/jobs/{id}", scope="admin", GET=show)`.

        If any plugin authenticates, the route rejects unknown callers and callers without `scope`;
        of several scopes one suffices. With `scope` None it is open to anybody.
        """
        return ControlRoute(path, scope, handlers, self)

    def guarded(self, route: BaseRoute, *, scope: Wanted | None) -> ScopedRoute:
        """Return a Starlette route that requires a scope, as the routes of `control` do."""
        return ScopedRoute(route, scope, self)

    def carried(self, route: BaseRoute) -> ScopedRoute:
        """Return a route that leads to `carry` or `edge`, which authenticate the caller."""
        return ScopedRoute(route, CARRIED, self)

    def carried_below(self, prefix: str, find: Find) -> ScopedRoute:
        """Return a route for the paths under `prefix` that lead to calls, as `find` says."""
        return self.carried(CarriedRoute(prefix, find, self.edge.serve))

    def carry_also(self, *paths: str, scope: str | None = None) -> Sequence[BaseRoute]:
        self.edge.carry_also(*paths, scope=scope)
        return [self.carried(Route(path, self.edge)) for path in paths]

    def scope_of(self, method: str, path: str) -> str | None:
        if self.edge.is_claimed(path) and not leads_to_calls(self._router.routes, method, path):
            raise NotFound(f"workers get no requests for {path[:200]}")
        return self.edge.scope_of(path)

    async def identify(self, call: Call) -> None:
        chains = self.chains
        if chains.authenticate and (rest := chains.identify(call)) is not None:
            await rest

    def _admin(self) -> list[ControlRoute]:
        workers = WorkersAdmin(self.workers, self._agreed)
        one = "/admin/workers/{worker_id}"
        control = partial(self.control, scope="admin")
        return [
            self.control("/health/workers", scope="monitor", GET=workers.health),
            control("/admin/reload", POST=self.reloader.answer),
            control("/admin/workers", GET=workers.list_all, POST=workers.add),
            control(f"{one}/drain", POST=workers.drain),
            control(f"{one}/undrain", POST=workers.undrain),
            control(one, GET=workers.show, PATCH=workers.patch, DELETE=workers.remove),
        ]

    async def _health(self, _: object) -> Response:
        """Return 200 even if degraded, because the gateway itself serves; see `_ready`.

        Without any worker yet the status is `ok`: trainers wait for it before they add theirs.
        """
        await self.storage.look()
        ready, reasons = self._can_serve, list(self._unwell())
        status = "degraded" if reasons else "ok"
        if not ready and self.workers.all:
            status, reasons = "no_worker", [NOBODY_FIT, *reasons]
        report: dict[str, object] = {"status": status}
        if reasons:
            report["reason"] = "; ".join(reasons)
        return JSONResponse(report if ready else report | {"ready": False})

    async def _ready(self, _: object) -> Response:
        """Return 200 if a call may go to a worker, or wait for one that is loaded; else 503."""
        if self.draining:
            status, seconds = "draining", MIN_RETRY_AFTER
        elif not self._can_serve:
            status, seconds = "no_worker", self.workers.seconds_until_fit()
        else:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": status}, 503, {"retry-after": str(seconds)})

    @property
    def _can_serve(self) -> bool:
        return self.workers.loads or any(worker.fit for worker in self.workers.all)

    def _unwell(self) -> Iterator[str]:
        storage = self.storage.health
        if storage.state != "ok":
            yield f"storage: {storage.reason}"
        if storage.unread:
            yield f"storage: traces and usage cannot be read: {storage.unread}"
        if self.occupancy.reason is not None:
            yield self.occupancy.reason
        for hook in self.hooks("health"):
            try:
                reason = hook.run()
            except Exception as error:  # noqa: BLE001  this hook is isolated
                self.failures.note(hook.plugin, "health", Outcome(), error)
            else:
                if reason is not None:
                    yield f"{hook.plugin}: {reason}"

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """All routes in use, each with the `scope` that it requires."""
        return tuple(self._router.routes)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: object) -> AsyncIterator[None]:
        async with self:
            yield

    async def __aenter__(self) -> Self:
        if self.peers.index == 0:  # the other processes would repeat it
            for warning in self.generation.warnings:
                log.warning("%s", warning)
            self._tell_kernel()
        async with self.reloader.held(), contextlib.AsyncExitStack() as stack:
            stack.callback(self.workers.close)
            await stack.enter_async_context(self.peers)
            await self.storage.open()
            stack.push_async_callback(self.storage.close)
            await self._agreed.restore()
            await stack.enter_async_context(self.prober)
            running = await enter_lifespans(self.plugins, self, self.plugins.new_since(None))
            self.generation = replace(self.generation, lifespans=running)
            stack.push_async_callback(self._leave)
            self._running = stack.pop_all()
        return self

    def _tell_kernel(self) -> None:
        log.info("kernel: %s", self.kernel)
        if self.kernel.problem:
            log.warning(
                "calls cost more than they need to: there is no native kernel: %s",
                self.kernel.problem,
            )

    async def _leave(self) -> None:
        await self.reloader.close()
        await leave_lifespans(self.generation.lifespans.values())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(0)
        await self._running.__aexit__(kind, error, trace)

    async def drain(self, seconds: float | None) -> None:
        """Reject new calls, give those in flight `seconds` to finish, then end the others.

        A caller whose call is ended gets 503 `draining`; a response that has begun is broken off.
        """
        await self.proxy.drain(seconds)


def create_app(config: Config, *, local_handler: LocalHandler | None = None) -> Gateway:
    """Return the gateway as an ASGI application for any server. Raises ConfigError.

    With `local_handler` a function replaces the configured workers, see gateway.pipeline.local.
    """
    return Gateway(config, local_handler=local_handler)
