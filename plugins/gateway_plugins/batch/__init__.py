"""A durable queue of calls that may wait, and the doors to it.

`queue` has the rows and `running` runs them; `engine.py` joins both. Each item is dispatched as a
call with the source `batch`, so all plugins apply to it.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence

from starlette.routing import BaseRoute

from gateway import (
    Attempt,
    Call,
    Host,
    Migrations,
    Outcome,
    Panel,
    Sample,
    WorkQueue,
    hookimpl,
)
from gateway_plugins.batch.doors.routes import routes
from gateway_plugins.batch.doors.shared import SharedQueue
from gateway_plugins.batch.engine import Engine
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.panels import BatchPanels
from gateway_plugins.batch.queue.schema import MIGRATIONS
from gateway_plugins.batch.report import Tally
from gateway_plugins.batch.running.runner import WORK


class Batch:
    """The plugin."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self.config = config
        self.tally = Tally()
        self.engine: Engine | None = None

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def routes(self, gateway: Host) -> Sequence[BaseRoute]:
        return routes(gateway, self._engine, self.config)

    @hookimpl
    def work_queue(self, gateway: Host) -> WorkQueue:
        return SharedQueue(gateway.storage, self._engine)

    @hookimpl
    def panels(self, gateway: Host) -> Sequence[Panel]:
        return BatchPanels(gateway.storage).all()

    def _engine(self) -> Engine:
        assert self.engine is not None  # no request comes before the lifespan
        return self.engine

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        self.engine = engine = Engine(gateway, self.config, self.tally)
        async with engine.running():
            yield

    @hookimpl
    def prepare(self, call: Call) -> Awaitable[None] | None:
        return None if WORK not in call.state else self._prepared(call)

    async def _prepared(self, call: Call) -> None:
        """An item is never streamed, whatever its body says: its response is stored whole."""
        if call.streams:
            await call.set("stream", False)
            await call.set("stream_options", None)
        if self.config.engine_priority is not None:
            await call.set("priority", self.config.engine_priority)

    @hookimpl
    def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        if self.engine is not None:
            self.engine.attempt_finished(call, attempt)

    @hookimpl
    def call_finished(self, call: Call, outcome: Outcome) -> None:
        if WORK not in call.state:
            self.tally.called(call.path, outcome)
        elif self.engine is not None:
            self.engine.call_finished(call, outcome)

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        yield from self.tally.samples()
        if self.engine is not None:
            yield from self.engine.samples()
