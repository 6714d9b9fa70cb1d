"""The core's own routes: health, and the administration of workers at run time."""

from collections.abc import Callable, Collection
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gateway import config
from gateway.calls.control_request import ControlRequest
from gateway.config import Node
from gateway.errors import BadRequest, NotFound, WorkerExists
from gateway.fleet.changes import Change, Fields, Overlay
from gateway.fleet.registry import Workers
from gateway.fleet.replicated import ReplicatedWorkers
from gateway.fleet.worker import Worker, WorkerInfo


class WorkersHealth(msgspec.Struct, kw_only=True):
    """All workers, with the number of `healthy` ones and the `total`."""

    workers: list[WorkerInfo]
    healthy: int
    total: int


class NewWorker(msgspec.Struct, forbid_unknown_fields=True):
    """A worker to add: the fields of a configured worker, except those that name local files."""

    url: str
    api_path: str | None = None
    worker_id: str | None = None
    model_name: str | None = None
    models: list[str] | UnsetType = UNSET
    weight: float | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    forward_authorization: bool | UnsetType = UNSET
    apis: list[str] | UnsetType = UNSET
    refuses_with: list[int] | UnsetType = UNSET
    inject: bool | UnsetType = UNSET
    probe: bool | config.Preset | config.WorkerProbe | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """Return the fields that the request has, without those that are null."""
        named = msgspec.structs.asdict(self)
        return {name: one for name, one in named.items() if one is not None and one is not UNSET}


class WorkersAdmin:
    """Lists and changes the workers of one gateway; a change takes effect once it is stored."""

    def __init__(self, workers: Workers, agreed: ReplicatedWorkers) -> None:
        self._workers = workers
        self._agreed = agreed

    async def health(self, _: ControlRequest) -> WorkersHealth:
        found = self._infos()
        healthy = sum(worker.healthy for worker in found)
        return WorkersHealth(workers=found, healthy=healthy, total=len(found))

    async def list_all(self, _: ControlRequest) -> list[WorkerInfo]:
        return self._infos()

    async def show(self, request: ControlRequest) -> WorkerInfo:
        return self._find(request.params["worker_id"]).info()

    async def add(self, request: ControlRequest) -> dict[str, Any]:
        """Add a worker, or return the one that is there with the given settings already.

        Trainers register their workers at each start. Fields that the request lacks may differ.
        """
        given = (await request.json(NewWorker)).given()
        settings = _checked(given)
        async with self._agreed.changing():
            known = self._registered(settings, given)
            if known is None:
                added = self._workers.overlay.added(settings)
                await self._agreed.change(settings.worker_id, added)
        shown = known or settings
        return {"worker_id": shown.worker_id, "url": shown.url, "api_path": shown.api_path}

    def _registered(self, settings: config.Worker, given: Collection[str]) -> config.Worker | None:
        """Return the worker of that id or, if no id is given, at that URL; None if there is none.

        Raises WorkerExists if its settings are not those of the given fields.
        """
        compared = (
            "url",
            "api_path",
            *(name for name in given if name in Fields.__struct_fields__),
        )
        unlike: list[str] = []
        for known in self._alike(settings, named="worker_id" in given):
            differs = [one for one in compared if _value(known, one) != _value(settings, one)]
            if not differs:
                return known
            unlike.append(f"{known.worker_id} with another {', '.join(differs)}")
        if not unlike:
            return None
        raise WorkerExists(
            f"there is the worker {unlike[0]} already; change it by PATCH /admin/workers/{{id}}, "
            "or give this one a worker_id of its own",
            param="worker_id",
        )

    def _alike(self, settings: config.Worker, *, named: bool) -> list[config.Worker]:
        """Return those of the same id, and those of the same URL if no id was given."""
        place = (settings.url, settings.api_path)
        known = [worker.settings for worker in self._workers.all]
        return [
            one
            for one in known
            if one.worker_id == settings.worker_id
            or (not named and (one.url, one.api_path) == place)
        ]

    async def remove(self, request: ControlRequest) -> dict[str, Any]:
        worker_id = request.params["worker_id"]
        await self._change(worker_id, lambda overlay: overlay.removed(worker_id))
        return {"removed": worker_id}

    async def patch(self, request: ControlRequest) -> WorkerInfo:
        worker_id = request.params["worker_id"]
        fields = _checked_fields(await request.json(Fields))
        return await self._change(worker_id, lambda overlay: overlay.patched(worker_id, fields))

    async def drain(self, request: ControlRequest) -> WorkerInfo:
        return await self._drain(request.params["worker_id"], drained=True)

    async def undrain(self, request: ControlRequest) -> WorkerInfo:
        return await self._drain(request.params["worker_id"], drained=False)

    async def _drain(self, worker_id: str, *, drained: bool) -> WorkerInfo:
        return await self._change(
            worker_id, lambda overlay: overlay.drained(worker_id, drained=drained)
        )

    async def _change(self, worker_id: str, change: Callable[[Overlay], Change]) -> WorkerInfo:
        """Apply the change and return the changed worker. Raises NotFound and database errors."""
        async with self._agreed.changing():
            worker = self._find(worker_id)
            await self._agreed.change(worker_id, change(self._workers.overlay))
        return worker.info()

    def _find(self, worker_id: str) -> Worker:
        worker = self._workers.find(worker_id)
        if worker is None:
            raise NotFound("there is no worker of this id; GET /admin/workers lists them")
        return worker

    def _infos(self) -> list[WorkerInfo]:
        return [worker.info() for worker in self._workers.all]


def _value(settings: config.Worker, name: str) -> object:
    """Return the value of a field to compare: lists of workers' settings have no order."""
    value = getattr(settings, name)
    return frozenset(value) if isinstance(value, list | tuple) else value


def _checked(given: dict[str, Any]) -> config.Worker:
    """Check with the configuration's own checks and messages. Raises BadRequest."""
    written = {name: value for name, value in given.items() if value is not None}
    if isinstance(written.get("probe"), config.WorkerProbe):
        written["probe"] = msgspec.to_builtins(written["probe"])
    problems: list[str] = []
    made = config.convert(Node.of(written, ""), config.Worker, problems=problems)
    if made is None:
        raise BadRequest("; ".join(problems), param=problems[0].partition(":")[0])
    return made


def _checked_fields(new: Fields) -> Fields:
    """Check the given fields as those of a whole worker. Raises BadRequest."""
    given = new.given()
    made = _checked({**given, "url": "http://any"})
    return Fields(**{name: getattr(made, name) for name in given})
