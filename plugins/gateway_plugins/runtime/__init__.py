"""Who has the GPU: starts and ends engines, and holds calls until their model is there.

`owning` has the one task that owns a runtime, `holding` the calls that wait, `policy` decides which
model a runtime has, `drivers` start and end engines, and `loading` tells whether an engine answers.
An engine that answers is a worker like any other.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from time import monotonic

from starlette.routing import BaseRoute

from gateway import (
    Call,
    ConfigError,
    Host,
    Migrations,
    Panel,
    Sample,
    Worker,
    hookimpl,
)
from gateway_plugins.runtime.checks import problems_of, problems_of_reload, taken_ids
from gateway_plugins.runtime.fleet import Fleet
from gateway_plugins.runtime.memory.schema import MIGRATIONS
from gateway_plugins.runtime.options import Options
from gateway_plugins.runtime.panels import RuntimePanels
from gateway_plugins.runtime.routes import RuntimeAdmin


class Runtime:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._options = config
        self._fleet: Fleet | None = None
        problems = problems_of(config)
        if problems:
            raise ConfigError(*problems)

    def fleet(self) -> Fleet:
        assert self._fleet is not None  # no request comes before the lifespan
        return self._fleet

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        return RuntimeAdmin(self.fleet).routes(gateway)

    @hookimpl
    def panels(self) -> Sequence[Panel]:
        return RuntimePanels(self.fleet).all()

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        if gateway.peers.count > 1:
            raise ConfigError("runtime: one process owns the engines; set processes to 1")
        if gateway.workers.loadable:
            raise ConfigError(
                "runtime: the plugin was removed by an earlier reload and still has calls; add it "
                "again once they have ended"
            )
        if problems := taken_ids(self._options, gateway.config):
            raise ConfigError(*problems)
        self._fleet = fleet = Fleet(gateway, self._options)
        async with fleet.running():
            yield

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        problems = [*problems_of(config), *problems_of_reload(self._options, config)]
        if problems:
            raise ValueError("; ".join(problems))
        self._options = config
        if self._fleet is not None:
            self._fleet.set_options(config)

    @hookimpl
    def filter_workers(
        self, call: Call, workers: Sequence[Worker]
    ) -> Sequence[Worker] | Awaitable[Sequence[Worker]]:
        fleet = self._fleet
        if fleet is None:
            return workers
        if not workers:
            return fleet.wait(call)
        if call.source != "batch" and not call.internal:
            arrivals = fleet.activity.arrivals.get(call.model)
            if arrivals is None:
                fleet.note(call)
            else:  # the path of nearly all calls, without a call of `note`
                arrivals.latest = monotonic()
                arrivals.calls += 1
        return workers

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        return iter(()) if self._fleet is None else self._fleet.samples()

    @hookimpl
    def health(self) -> str | None:
        return None if self._fleet is None else self._fleet.problem()
