"""Sends calls to the least loaded worker, by what engines tell in their metrics.

`scraping.py` asks the engines, `reading.py` reads their answers, and `loads.py` joins these with
the gateway's own counts.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from time import monotonic

import msgspec
from starlette.routing import BaseRoute

from gateway import Call, ControlRequest, Host, NotFound, Sample, Worker, hookimpl
from gateway_plugins.load_aware.loads import Loads
from gateway_plugins.load_aware.options import Options
from gateway_plugins.load_aware.scraping import Scraper


class WorkerLoad(msgspec.Struct, kw_only=True):
    """One worker's load. `age` is the time since its engine told, in seconds.

    `running`, `waiting` and `usage` are what it told, None if it did not of late; `cost` is what
    the choice compares, the lowest first. `silent`: why it does not tell.
    """

    in_flight: int
    running: int | None = None
    waiting: int | None = None
    usage: float | None = None
    age: float | None = None
    cost: float
    silent: str | None = None


class LoadAware:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._loads = Loads(config)
        self._gateway: Host | None = None
        self._scraper: Scraper | None = None

    @hookimpl
    def reconfigure(self, config: Options) -> None:
        self._loads.options = config

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [gateway.control("/admin/load", scope="monitor", GET=self._show)]

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self._gateway = gateway
        self._scraper = Scraper(gateway.workers, self._loads)
        scraping = asyncio.create_task(self._scraper.run())
        try:
            yield
        finally:
            scraping.cancel()
            await asyncio.wait([scraping])

    @hookimpl
    def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        return self._loads.pick(workers, monotonic()) if len(workers) > 1 else None

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        scraper = self._scraper
        if scraper is None:
            return
        help_ = "Requests for the metrics of engines."
        yield Sample("gateway_load_scrapes_total", "counter", scraper.scrapes, help_)
        help_ = "Those that told no load."
        yield Sample("gateway_load_scrape_failures_total", "counter", scraper.failures, help_)
        help_ = "The load of the worker by which calls are sent, with one more call."
        for name, load in self._report().items():
            yield Sample("gateway_load_cost", "gauge", load.cost, help_, {"worker": name}, "max")

    def _report(self) -> dict[str, WorkerLoad]:
        gateway, scraper = self._gateway, self._scraper
        if gateway is None or scraper is None:
            return {}
        return {one.id: self._load_of(one, scraper) for one in gateway.workers.all}

    def _load_of(self, worker: Worker, scraper: Scraper) -> WorkerLoad:
        now = monotonic()
        told = self._loads.told(worker, now)
        found = WorkerLoad(
            in_flight=worker.in_flight,
            cost=self._loads.cost(worker, now),
            silent=scraper.silent.get(worker.id),
        )
        if told is not None:
            found.running, found.waiting = told.load.running, told.load.waiting
            found.usage, found.age = told.load.usage, now - told.at
        return found

    async def _show(self, _: ControlRequest) -> dict[str, WorkerLoad]:
        if self._gateway is None:
            raise NotFound("the gateway has not begun yet, so that no engine was asked")
        return self._report()
