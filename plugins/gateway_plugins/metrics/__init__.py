"""Metrics for Prometheus: `GET /metrics` reports what calls, workers and plugins did.

`watch.py` times the parts of a response and `tally.py` counts calls, both in plain numbers;
`labels.py` limits the values of labels, and `principals.py` counts by principal. `state.py` reads
the gateway's state at each scrape, `families.py` checks all samples and formats them with
prometheus-client, and `others.py` merges those of other processes. Other plugins report their own
samples with the hook `samples`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from time import monotonic
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta
from starlette.responses import Response
from starlette.routing import BaseRoute

from gateway import (
    Call,
    ControlRequest,
    Histogram,
    Host,
    Outcome,
    Sample,
    StateKey,
    Topic,
    hookimpl,
)
from gateway_plugins.metrics.families import Families, PluginSamples, checked, encoder_for
from gateway_plugins.metrics.labels import Names, Routes
from gateway_plugins.metrics.others import merge, written
from gateway_plugins.metrics.principals import Principals
from gateway_plugins.metrics.state import processes, samples_of
from gateway_plugins.metrics.tally import MAX_SERIES, CallSeries, Tally
from gateway_plugins.metrics.watch import Watch

SCRAPE = Topic("metrics", "scrape")

WATCH: StateKey[Watch] = StateKey("metrics")

Way = tuple[str, str | None, str, str]
"""A path, a model, the id of a worker and a front end."""

MAX_FRONTENDS = 16
"""Maximum number of front ends that are kept apart; plugins bring their own."""

LAG_INTERVAL = 0.5
"""Seconds between two wake-ups of the task that measures the event loop's lag."""

LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The plugin."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """Which values of labels are kept apart.

        `max_models`: maximum number of model names. `routes`: paths in addition to the known ones.
        `by_principal`: whether calls and tokens are counted by principal. `tokens`: look for usage
        in every response; without it tokens are known only if another plugin looks for them.
        """

        renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
            "0.2": {"models": "max_models", "principals": "by_principal"}
        }

        max_models: Annotated[int, Meta(ge=0)] = 100
        routes: tuple[str, ...] = ()
        by_principal: bool = False
        tokens: bool = False

    def __init__(self, config: Config) -> None:
        self._tally = Tally()
        self._principals = Principals()
        self._models = Names(config.max_models)
        self._frontends = Names(MAX_FRONTENDS)
        self._known: dict[Way, CallSeries] = {}
        self._served: frozenset[str] = frozenset()
        self._lag = Histogram(LAG)
        self._writing = asyncio.Lock()
        self._gateway: Host | None = None
        self.reconfigure(config)

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        self._config = config
        self._routes = Routes(config.routes)
        self._models.most = config.max_models
        self._known.clear()

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        self._gateway = gateway
        return [gateway.control("/metrics", scope="monitor", GET=self._show)]

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        def follow() -> None:
            names = (worker.models or () for worker in gateway.workers.all)
            self._served = gateway.workers.loadable.union(*names)

        gateway.workers.changed.append(follow)
        follow()
        gateway.peers.handle(SCRAPE, self._tell)
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            gateway.workers.changed.remove(follow)
            beating.cancel()

    @hookimpl
    def observe(self, call: Call) -> Watch | None:
        if self._config.tokens:
            call.count_tokens()
        if call.body.data is not None and not call.streams:
            return None
        watch = call.state[WATCH] = Watch()
        return watch

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        attempts, model = call.attempts, call.model
        key = call.asked_path, model, attempts[-1].worker.id if attempts else "", call.frontend
        way = self._known.get(key) or self._way(key, outcome)
        way.add(call, outcome, call.state.get(WATCH))
        if attempts and attempts[0] is not attempts[-1]:
            self._tally.add_retries(call)
        if self._config.by_principal:
            self._principals.add(call, outcome)

    def _way(self, key: Way, outcome: Outcome) -> CallSeries:
        """Return the series of a way; remember it if its path and its model are its labels.

        Anything else may be made up by callers.
        """
        path, name, worker_id, frontend = key
        good = name in self._served or (outcome.result == "success" and outcome.status < 300)
        route, model = self._routes.of(path), self._models.of(name, good=good)
        way = self._tally.way(route, model, worker_id, self._frontends.of(frontend, good=True))
        if route == path and model == (name or "") and len(self._known) < MAX_SERIES:
            self._known[key] = way
        return way

    async def _beat(self) -> None:
        """Measure how late the event loop wakes a task."""
        while True:
            due = monotonic() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lag.add(max(0.0, monotonic() - due))

    async def _show(self, request: ControlRequest) -> Response:
        """Return the samples of all processes, formatted in a thread, one response at a time."""
        encode, content_type = encoder_for(request.header("accept") or "")
        assert self._gateway is not None  # `routes` has set it
        peers = self._gateway.peers
        async with self._writing:
            said = await peers.request(SCRAPE)
            families = await self._collect(self._gateway)
            await asyncio.to_thread(merge, families, said)
            families.add(processes(len(said) + 1, peers.count))
            text = await asyncio.to_thread(encode, families)
        return Response(text, headers={"content-type": content_type})

    async def _tell(self, _: bytes) -> bytes:
        """Return this process's samples to another process, which is scraped."""
        assert self._gateway is not None
        return await asyncio.to_thread(written, await self._collect(self._gateway))

    async def _collect(self, gateway: Host) -> Families:
        """Return the samples of this process, all of the same moment."""
        told = [*self._own(gateway), *self._others(gateway)]
        families, broken = await asyncio.to_thread(checked, told)
        for plugin, error in broken:
            gateway.failures.note(plugin, "samples", Outcome(), error)
        return families

    def _own(self, gateway: Host) -> Iterator[PluginSamples]:
        self._tally.forget({worker.id for worker in gateway.workers.all})
        self._known.clear()
        help_ = "Seconds by which the event loop was late for what it had to do."
        lag = Sample("gateway_event_loop_lag_seconds", "histogram", self._lag, help_)
        yield "metrics", self._tally.copy().samples()
        yield "metrics", [*self._principals.samples(), *samples_of(gateway), lag]

    def _others(self, gateway: Host) -> Iterator[PluginSamples]:
        for hook in gateway.hooks("samples"):
            try:
                yield hook.plugin, list(hook.run())
            except Exception as error:  # noqa: BLE001  one plugin's failure must not affect others
                gateway.failures.note(hook.plugin, "samples", Outcome(), error)
