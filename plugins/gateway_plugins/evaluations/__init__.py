"""Evaluations of models: users' own code makes requests and scores the responses.

`children` runs that code in processes of its own, `running` carries an evaluation from its
submission to its scores through the durable queue of another plugin, `engine.py` joins both.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

from starlette.routing import BaseRoute

from gateway import Host, Migrations, Panel, Sample, hookimpl
from gateway_plugins.evaluations.doors.routes import Doors
from gateway_plugins.evaluations.engine import Engine
from gateway_plugins.evaluations.options import Options
from gateway_plugins.evaluations.panels import EvaluationPanels
from gateway_plugins.evaluations.report import Tally
from gateway_plugins.evaluations.rows.schema import MIGRATIONS


class Evaluations:
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
        return Doors(gateway, self._engine).routes(gateway)

    @hookimpl
    def panels(self, gateway: Host) -> Sequence[Panel]:
        return EvaluationPanels(gateway.storage).all()

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
    def health(self) -> str | None:
        return None if self.engine is None else self.engine.repository.problem()

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        counts = {} if self.engine is None else self.engine.conductor.counts
        yield from self.tally.samples(counts)
