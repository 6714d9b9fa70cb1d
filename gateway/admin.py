"""The core's own routes: its health, and its workers while it runs."""

from typing import Any

import msgspec

from gateway import config
from gateway.config import Node
from gateway.control import ControlRequest
from gateway.errors import BadRequest, NotFound
from gateway.workers import WorkerInfo, Workers


class WorkersHealth(msgspec.Struct, kw_only=True):
    """All workers, and how many of the `total` are `healthy`."""

    workers: list[WorkerInfo]
    healthy: int
    total: int


class NewWorker(msgspec.Struct, forbid_unknown_fields=True):
    """A worker as it is added: the fields of the configuration's, but for what names files here."""

    url: str
    api_path: str | None = None
    worker_id: str | None = None
    model_name: str | None = None
    weight: float = 1.0
    headers: dict[str, str] = {}
    forward_authorization: bool = False
    inject: bool = True


class WorkersAdmin:
    """Lists, adds and removes the workers of one gateway."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    async def health(self, _: ControlRequest) -> WorkersHealth:
        found = self._infos()
        healthy = sum(worker.healthy for worker in found)
        return WorkersHealth(workers=found, healthy=healthy, total=len(found))

    async def list_all(self, _: ControlRequest) -> list[WorkerInfo]:
        return self._infos()

    async def add(self, request: ControlRequest) -> dict[str, Any]:
        settings = _checked(await request.json(NewWorker))
        try:
            worker = self._workers.add(settings)
        except ValueError as error:
            raise BadRequest(
                f"{error}; give this one another worker_id", param="worker_id"
            ) from None
        return {"worker_id": worker.id, "url": worker.url, "api_path": worker.api_path}

    async def remove(self, request: ControlRequest) -> dict[str, Any]:
        worker_id = request.params["worker_id"]
        if self._workers.remove(worker_id) is None:
            raise NotFound("there is no worker of this id; GET /admin/workers lists them")
        return {"removed": worker_id}

    def _infos(self) -> list[WorkerInfo]:
        return [worker.info() for worker in self._workers.all]


def _checked(given: NewWorker) -> config.Worker:
    """Through the configuration's own checks, in its words. Raises BadRequest."""
    written = {
        name: value for name, value in msgspec.structs.asdict(given).items() if value is not None
    }
    problems: list[str] = []
    made = config.convert(Node.of(written, ""), config.Worker, problems=problems)
    if made is None:
        raise BadRequest("; ".join(problems), param=problems[0].partition(":")[0])
    return made
