"""Changes the weights of all workers while calls run, and tracks the version of each worker.

`engine_commands.py` has the requests to one engine, `update.py` the steps of an update, `admin.py`
the routes, and `versions.py` the versions of the workers. `gate.py` holds calls during an update.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import Call, Host, Migrations, Sample, Worker, hookimpl
from gateway_plugins.weights.gate import Gate
from gateway_plugins.weights.metrics import samples_of
from gateway_plugins.weights.sync.admin import Times, WeightsAdmin
from gateway_plugins.weights.sync.versions import MIGRATIONS

Seconds = Annotated[float, Meta(gt=0)]


class WeightSync:
    """The plugin. List it before plugins that queue or choose, so that it runs before them."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        """While weights change, up to `max_held` calls wait, each up to `max_wait` seconds.

        While it waits, the caller of a stream is sent an SSE comment every `comment_interval`
        seconds (null: none). Running calls have `drain_timeout` seconds to finish, and an engine
        has `step_timeout` seconds for each step. Every `check_interval` seconds each worker is
        asked for its weight version.
        """

        renamed_until: ClassVar[Mapping[str, Mapping[str, str]]] = {
            "0.2": {
                "held": "max_held",
                "wait": "max_wait",
                "comments": "comment_interval",
                "drain": "drain_timeout",
                "patience": "step_timeout",
                "check": "check_interval",
            }
        }

        max_held: Annotated[int, Meta(ge=0)] = 10_000
        max_wait: Seconds = 300.0
        comment_interval: Seconds | None = None
        drain_timeout: Seconds = 120.0
        step_timeout: Seconds = 300.0
        check_interval: Seconds = 5.0

    one_process = "it holds calls of this process alone while weights change"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.gate = Gate(
            length=config.max_held, wait=config.max_wait, comments=config.comment_interval
        )
        self._admin: WeightsAdmin | None = None

    @property
    def doubtful(self) -> frozenset[Worker]:
        """Workers that may have a mixture of old and new weights."""
        return frozenset() if self._admin is None else self._admin.versions.doubtful

    @hookimpl
    def migrations(self) -> Migrations:
        return MIGRATIONS

    @hookimpl
    def reconfigure(self, config: Config) -> None:
        """Apply the options; an update that is under way keeps its times."""
        self.config = config
        self.gate.limit(
            length=config.max_held, wait=config.max_wait, comments=config.comment_interval
        )
        if self._admin is not None:
            self._admin.times = Times(config.drain_timeout, config.step_timeout)
            self._admin.versions.interval = config.check_interval

    @hookimpl
    def routes(self, gateway: Host) -> list[BaseRoute]:
        times = Times(self.config.drain_timeout, self.config.step_timeout)
        self._admin = admin = WeightsAdmin(gateway, self.gate, times)
        return [
            gateway.control("/admin/weights", scope="admin", GET=admin.show, POST=admin.update),
            gateway.control("/admin/weights/pause", scope="admin", POST=admin.pause),
            gateway.control("/admin/weights/resume", scope="admin", POST=admin.resume),
        ]

    @hookimpl
    def samples(self) -> Iterator[Sample]:
        epoch = 0 if self._admin is None else self._admin.versions.epoch
        return samples_of("weight_sync", epoch, self.gate)

    @hookimpl
    @contextlib.asynccontextmanager
    async def lifespan(self, gateway: Host) -> AsyncIterator[None]:
        assert self._admin is not None  # `routes` has been called before
        versions = self._admin.versions
        versions.interval = self.config.check_interval
        await versions.load(gateway.storage)
        gateway.workers.changed.append(versions.changed)
        following = asyncio.create_task(versions.follow())
        try:
            yield
        finally:
            gateway.workers.changed.remove(versions.changed)
            following.cancel()
            await asyncio.wait((following,))
            await self._admin.close()

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        await self.gate.passed(call)
        return workers
