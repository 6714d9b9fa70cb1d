"""The core's own routes: health, and the administration of workers at run time."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway import config
from gateway.calls.control_request import ControlRequest
from gateway.config import Node
from gateway.errors import BadRequest, NotFound
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
    models: list[str] = []
    weight: float = 1.0
    headers: dict[str, str] = {}
    forward_authorization: bool = False
    refuses_with: list[int] = []
    inject: bool = True
    probe: bool = True


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
        settings = _checked(msgspec.structs.asdict(await request.json(NewWorker)))
        async with self._agreed.changing():
            if self._workers.find(settings.worker_id) is not None:
                raise BadRequest(
                    f"there is a worker {settings.worker_id} already; give this one another "
                    "worker_id",
                    param="worker_id",
                )
            added = self._workers.overlay.added(settings)
            await self._agreed.change(settings.worker_id, added)
        return {
            "worker_id": settings.worker_id,
            "url": settings.url,
            "api_path": settings.api_path,
        }

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


def _checked(given: dict[str, Any]) -> config.Worker:
    """Check with the configuration's own checks and messages. Raises BadRequest."""
    written = {name: value for name, value in given.items() if value is not None}
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
