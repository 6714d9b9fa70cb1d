"""The gateway as its plugins see it: everything that a plugin may ask of it."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from gateway.calls.call import Call
from gateway.calls.control_request import Handler
from gateway.calls.records import Wanted
from gateway.cluster.peers import Peers
from gateway.config import Config
from gateway.fleet.registry import Workers
from gateway.kernel import Kernel
from gateway.plugins.chains import Failures, Hook
from gateway.storage import Storage
from gateway.telemetry.metrics import Histogram
from gateway.telemetry.occupancy import Occupancy


class Host(Protocol):
    """The gateway as its plugins see it; the hooks `routes` and `lifespan` are given it.

    `config` is the configuration in force, which a reload replaces. `workers` is the registry,
    `storage` the database, `peers` are the other processes of this gateway. `failures` counts the
    failures of isolated hooks, and logs the first of each. `authenticates`: a plugin has an
    `authenticate` hook, so every call has a principal or is refused. `occupancy`: the callers'
    connections of this process. `overhead`: the gateway's own seconds of each call.
    `kernel`: the kernel in use, see gateway.kernel.
    """

    @property
    def config(self) -> Config: ...
    @property
    def workers(self) -> Workers: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def peers(self) -> Peers: ...
    @property
    def failures(self) -> Failures: ...
    @property
    def occupancy(self) -> Occupancy: ...
    @property
    def overhead(self) -> Histogram: ...
    @property
    def kernel(self) -> Kernel: ...
    @property
    def draining(self) -> bool:
        """Whether new calls are rejected because the gateway shuts down."""

    async def until_draining(self) -> None:
        """Wait until the gateway begins to shut down."""

    @property
    def authenticates(self) -> bool: ...
    @property
    def routes(self) -> Sequence[BaseRoute]:
        """All routes in use, each with the `scope` that it requires."""

    @property
    def calls_in_flight(self) -> Collection[Call]:
        """The calls that have begun and not ended, in no order."""

    def hooks(self, name: str) -> Sequence[Hook]:
        """Return the implementations of a hook, in the order of the configuration file.

        Raises KeyError if there is no such hook.
        """

    def control(self, path: str, *, scope: Wanted | None, **handlers: Handler) -> BaseRoute:
        """Return a control route: `control("/jobs/{id}", scope="admin", GET=show)`.

        If a plugin authenticates, the route rejects callers that no plugin knows or that lack
        `scope`; of several scopes one suffices; None: it is open to anybody.
        """

    def guarded(self, route: BaseRoute, *, scope: Wanted | None) -> BaseRoute:
        """Return any Starlette route behind a scope, like those of `control`."""

    def carried(self, route: BaseRoute) -> BaseRoute:
        """Return a route that leads to `carry`, which authenticates the caller itself."""

    def carried_below(
        self, prefix: str, find: Callable[[str], tuple[str, str | None] | None]
    ) -> BaseRoute:
        """Return a route for paths under `prefix` that lead to calls: cheaper than `carried`.

        `find(path)` returns the path at the worker and the session's id or None; it returns None
        for a path that another route may take. A CallError that it raises is the response.
        """

    async def carry(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        path: str,
        session_id: str | None = None,
    ) -> None:
        """Forward one HTTP request as a call. `path` is the path at the worker.

        Percent-encoding of `path` is kept. Raises NotFound if the path is not forwarded.
        """

    def carries(self, path: str) -> bool:
        """Whether the path is forwarded to workers: under /v1/, configured, or a plugin's."""

    def scope_of(self, method: str, path: str) -> str | None:
        """Return the scope that callers of a path need; None: that of the calls of models.

        For front ends that are not HTTP. Raises NotFound if a request is not forwarded to workers,
        also if a route of a plugin is at `path`.
        """

    def carry_also(self, *paths: str, scope: str | None = None) -> Sequence[BaseRoute]:
        """Forward these exact paths too; return the routes, which the plugin gives to the gateway.

        `scope` is the scope that a caller needs; None: that of the calls of models.
        """

    async def identify(self, call: Call) -> None:
        """Set the principal of a call that is not dispatched. Raises Unauthorized.

        The principal stays None if no plugin authenticates. Raises the errors of the hooks.
        """

    async def dispatch(self, call: Call) -> None:
        """Carry `call` through the chains of hooks to a worker, for front ends that are not HTTP.

        When this returns, the call's Caller has the response or has left. Raises nothing, apart
        from the cancellation of the task.
        """
