"""The routes below `/eval`, and their handlers."""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.routing import BaseRoute

from gateway import BadRequest, ControlRequest, Database, Host, NotFound
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.children.repository import Evaluation
from gateway_plugins.evaluations.doors import showing
from gateway_plugins.evaluations.doors.access import found, visible_to
from gateway_plugins.evaluations.doors.showing import Brief, Matrix, Record, ShownItem
from gateway_plugins.evaluations.doors.submitting import Submitting
from gateway_plugins.evaluations.engine import Engine
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.items import STATES
from gateway_plugins.evaluations.rows.jobs import Job, Run

SCOPE = ("eval", "admin")


MAX_WAIT = 60.0
"""Seconds that a request may wait for the end of a job."""


class ShowQuery(msgspec.Struct, forbid_unknown_fields=True):
    """`brief`: without the ids of items, and without details.

    `wait`: seconds to wait for the end of the job, at most MAX_WAIT.
    """

    brief: bool = False
    wait: Annotated[float, Meta(ge=0)] = 0.0


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which jobs to list."""

    model: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class ItemsQuery(msgspec.Struct, forbid_unknown_fields=True, rename={"name": "eval"}):
    """`eval`: the evaluation, if the job has several. `after`: the index before the page."""

    name: str | None = None
    state: Literal["waiting", "queued", "completed", "failed", "canceled"] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    after: Annotated[int, Meta(ge=-1)] = -1


class JobList(msgspec.Struct):
    evaluations: list[Brief]
    total: int
    model_filter: str | None
    limit: int


class ItemList(msgspec.Struct):
    """A page of items; `after` is that of the next page, null if this is the last."""

    eval_name: str
    items: list[ShownItem]
    after: int | None


class Rescore(msgspec.Struct):
    """Which job to score again: this one, or the newest of the model."""

    job_id: str | None = None
    model: str | None = None
    eval_name: str | None = None


class Rescored(msgspec.Struct):
    job_id: str
    model: str
    rescored: list[str]
    errors: dict[str, str]
    metrics: dict[str, dict[str, float | None]]


class EvaluationList(msgspec.Struct):
    evals: list[Evaluation]


class Doors:
    """The handlers."""

    def __init__(self, gateway: Host, engine: Callable[[], Engine]) -> None:
        self._engine = engine
        self._storage = gateway.storage
        self._submitting = Submitting(gateway, engine)

    def routes(self, gateway: Host) -> list[BaseRoute]:
        """Return the routes."""
        one = "/eval/{job_id}"
        return [
            gateway.control("/eval/submit", scope=SCOPE, POST=self._submitting.submit),
            gateway.control("/eval/rescore", scope=SCOPE, POST=self.rescore),
            gateway.control("/eval/evals", scope=SCOPE, GET=self.evaluations),
            gateway.control("/eval/matrix", scope=SCOPE, GET=self.matrix),
            gateway.control("/eval/", scope=SCOPE, GET=self.list),
            gateway.control("/eval", scope=SCOPE, GET=self.list),
            gateway.control(f"{one}/items", scope=SCOPE, GET=self.items),
            gateway.control(f"{one}/resume", scope=SCOPE, POST=self.resume),
            gateway.control(one, scope=SCOPE, GET=self.show, DELETE=self.cancel),
        ]

    async def show(self, request: ControlRequest) -> Record:
        """Show a job."""
        query = request.query(ShowQuery)
        job_id, owner = request.params["job_id"], visible_to(request)
        if query.wait > 0:
            job = await self._job(request)
            seconds = min(query.wait, MAX_WAIT)
            await request.unless_gone(self._engine().wait(job, seconds))
        return await self._storage.read(
            lambda db: showing.record(db, found(db, job_id, owner), brief=query.brief)
        )

    async def list(self, request: ControlRequest) -> JobList:
        """List jobs, the newest first."""
        query, owner = request.query(ListQuery), visible_to(request)

        def read(db: Database) -> JobList:
            page = jobs.newest(db, owner, query.model, query.limit)
            total = jobs.count(db, owner, query.model)
            shown = [showing.brief(db, job) for job in page]
            return JobList(shown, total, query.model, query.limit)

        return await self._storage.read(read)

    async def matrix(self, request: ControlRequest) -> Matrix:
        """Show the newest scores of each model."""
        owner = visible_to(request)
        return await self._storage.read(lambda db: showing.matrix(db, owner))

    async def evaluations(self, _: ControlRequest) -> EvaluationList:
        """List the evaluations of the repository."""
        return EvaluationList(await self._engine().evaluations())

    async def items(self, request: ControlRequest) -> ItemList:
        """List the items of one evaluation of a job."""
        query, owner = request.query(ItemsQuery), visible_to(request)
        job_id = request.params["job_id"]

        def read(db: Database) -> ItemList:
            job = found(db, job_id, owner)
            run = _the_run(db, job, query.name)
            state = None if query.state is None else STATES.index(query.state)
            page = items.page(db, run.number, query.after, query.limit, state)
            shown = [showing.item(one, job, run) for one in page]
            more = len(page) == query.limit
            return ItemList(run.name, shown, page[-1].place if more else None)

        return await self._storage.read(read)

    async def cancel(self, request: ControlRequest) -> Record:
        """Cancel a job. Raises Conflict if it has ended."""
        job = await self._job(request)
        await self._engine().cancel(job)
        return await self._shown(job)

    async def resume(self, request: ControlRequest) -> Record:
        """Run what failed, or was canceled, once more."""
        job = await self._job(request)
        await self._engine().resume(job)
        return await self._shown(job)

    async def rescore(self, request: ControlRequest) -> Rescored:
        """Score evaluations of a job again, from the responses that are kept."""
        asked = await request.json(Rescore)
        if (asked.job_id is None) == (asked.model is None):
            raise BadRequest("name a `job_id` or a `model`")
        owner = visible_to(request)
        job, runs = await self._storage.read(lambda db: _wanted(db, asked, owner))
        result = Rescored(job.id, job.model, [], {}, {})
        for run in runs:
            try:
                result.metrics[run.name] = await self._engine().score_again(job, run)
                result.rescored.append(run.name)
            except (Failed, OSError) as error:
                result.errors[run.name] = str(error)
        return result

    async def _job(self, request: ControlRequest) -> Job:
        job_id, owner = request.params["job_id"], visible_to(request)
        return await self._storage.read(lambda db: found(db, job_id, owner))

    async def _shown(self, job: Job) -> Record:
        return await self._storage.read(
            lambda db: showing.record(db, jobs.job_numbered(db, job.number), brief=True)
        )


def _the_run(db: Database, job: Job, name: str | None) -> Run:
    """Return the evaluation of a job with this name, or its only one."""
    runs = jobs.runs_of(db, job.number)
    if name is None and len(runs) == 1:
        return runs[0]
    named = {run.name: run for run in runs}
    if name is None:
        raise BadRequest(f"name one in `eval`: {', '.join(named)}", param="eval")
    if name not in named:
        raise NotFound(f"the job has no evaluation of this name, but {', '.join(named)}")
    return named[name]


def _wanted(db: Database, asked: Rescore, owner: str | None) -> tuple[Job, list[Run]]:
    """Return the job to score again, and its evaluations. Raises NotFound."""
    if asked.job_id is not None:
        job = found(db, asked.job_id, owner)
    else:
        newest = jobs.newest(db, owner, asked.model, 1)
        if not newest:
            raise NotFound("there is no evaluation job of this model, or it is not kept any more")
        [job] = newest
    if asked.eval_name is not None:
        return job, [_the_run(db, job, asked.eval_name)]
    return job, jobs.runs_of(db, job.number)
