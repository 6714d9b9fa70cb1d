"""Routes for operators: what the runtimes do and why, models on disk, another try for a model."""

from collections.abc import Callable
from time import monotonic

import msgspec
from starlette.routing import BaseRoute

from gateway import ControlRequest, Host, NotFound
from gateway_plugins.runtime.fleet import Fleet
from gateway_plugins.runtime.models.showing import (
    DiskInfo,
    DownloadInfo,
    disk_info,
    download_info,
)
from gateway_plugins.runtime.owning.decisions import Event
from gateway_plugins.runtime.owning.owner import Owner
from gateway_plugins.runtime.policy.view import Demand


class ModelInfo(msgspec.Struct, frozen=True):
    """What is wanted of a model and known of it; times are seconds, `retry_in` until a new try.

    `download` is None unless the model is being downloaded.
    """

    held: int
    queued: int
    running: int
    load_time: float
    failures: int
    reason: str | None
    text: str | None
    retry_in: float
    download: DownloadInfo | None


class RuntimeInfo(msgspec.Struct, frozen=True):
    """A runtime: its phase for `elapsed` seconds, and its latest decisions, the newest first."""

    name: str
    phase: str
    model: str | None
    next: str | None
    generation: int
    elapsed: float
    tokens: float
    reason: str | None
    decisions: list[Event]


class RuntimesInfo(msgspec.Struct, frozen=True):
    """All runtimes and models. `owned`: this gateway owns them, no other one."""

    owned: bool
    held: int
    runtimes: list[RuntimeInfo]
    models: dict[str, ModelInfo]


class RetryRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class RuntimeAdmin:
    """The routes, over the runtimes that `fleet` returns."""

    def __init__(self, fleet: Callable[[], Fleet]) -> None:
        self._fleet = fleet

    def routes(self, gateway: Host) -> list[BaseRoute]:
        return [
            gateway.control("/admin/runtime", scope="monitor", GET=self._show),
            gateway.control("/admin/models", scope="monitor", GET=self._show_models),
            gateway.control("/admin/runtime/retry", scope="admin", POST=self._retry),
        ]

    async def _show(self, _: ControlRequest) -> RuntimesInfo:
        fleet = self._fleet()
        return RuntimesInfo(
            owned=fleet.is_owner,
            held=len(fleet.holding),
            runtimes=[_runtime(owner) for owner in fleet.owners],
            models={name: _model(fleet, name, one) for name, one in fleet.demands().items()},
        )

    async def _show_models(self, _: ControlRequest) -> DiskInfo:
        fleet = self._fleet()
        return await disk_info(fleet.shelf, fleet.memory)

    async def _retry(self, request: ControlRequest) -> ModelInfo:
        """Forget the failures of a model, so that it is loaded as soon as it is wanted."""
        fleet, model = self._fleet(), (await request.json(RetryRequest)).model
        if model not in fleet.demands():
            raise NotFound("there is no model of this name; GET /admin/runtime lists them")
        await fleet.forgive(model)
        return _model(fleet, model, fleet.demands()[model])


def _runtime(owner: Owner) -> RuntimeInfo:
    state = owner.state
    return RuntimeInfo(
        name=owner.runtime.name,
        phase=state.phase,
        model=state.model,
        next=state.next,
        generation=state.generation,
        elapsed=monotonic() - state.since,
        tokens=owner.policy.tokens(monotonic()),
        reason=state.reason,
        decisions=owner.decisions.latest(),
    )


def _model(fleet: Fleet, name: str, demand: Demand) -> ModelInfo:
    known = fleet.memory.of(name)
    return ModelInfo(
        held=demand.held,
        queued=demand.queued,
        running=demand.running,
        load_time=demand.load_time,
        failures=known.failures,
        reason=known.reason,
        text=known.text,
        retry_in=fleet.memory.seconds_barred(name),
        download=download_info(fleet.shelf.progress(name)),
    )
