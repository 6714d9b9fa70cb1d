"""Carries one evaluation from the state of its row to its end, step by step."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from gateway import CallError, Database, Storage, StorageError, WorkQueue
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.children.repository import Repository
from gateway_plugins.evaluations.options import Options
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.jobs import Job, Run, RunState
from gateway_plugins.evaluations.running.collecting import Collecting
from gateway_plugins.evaluations.running.places import Places
from gateway_plugins.evaluations.running.preparing import prepare
from gateway_plugins.evaluations.running.scoring import Scoring

log = logging.getLogger("gateway.evaluations")

MAX_ERROR = 4_000
"""Characters of the reason that is stored with a failed evaluation."""


class Tools:
    """What all evaluations of a gateway use. `steps` limits the children that run at a time."""

    def __init__(
        self,
        storage: Storage,
        queue: WorkQueue,
        options: Options,
        repository: Repository,
        places: Places,
    ) -> None:
        self.storage = storage
        self.queue = queue
        self.options = options
        self.repository = repository
        self.places = places
        self.steps = asyncio.Semaphore(options.prepare_concurrency)

    async def results_for(self, job: Job) -> Path:
        """Return the folder for the results of a job, made if there is none. Raises OSError."""
        found = await self.storage.read(lambda db: jobs.job_numbered(db, job.number).folder)
        if found is None:
            found = str(await asyncio.to_thread(self.places.new_results, job))
            folder = found
            await self.storage.write(lambda db: jobs.set_folder(db, job.number, folder))
        return Path(found)


class Carrier:
    """Carries the evaluation with this number. `ended` is called with its last state."""

    def __init__(self, tools: Tools, number: int, ended: Callable[[RunState], None]) -> None:
        self._tools = tools
        self._number = number
        self._ended = ended

    async def carry(self) -> None:
        """Do what is left to do. Raises StorageError, after which this can be done again."""
        while True:
            found = await self._tools.storage.read(self._look)
            if found is None:
                return
            run, job, arguments = found
            if run.is_over:
                return
            try:
                await self._step(run, job, arguments)
            except StorageError:
                raise
            except (Failed, CallError, OSError) as error:
                await self._fail(run, str(error))
            except Exception as error:
                log.exception("evaluation %s of %s cannot go on", run.name, job.id)
                await self._fail(run, f"internal error: {error!r}")

    def _look(self, db: Database) -> tuple[Run, Job, dict[str, str]] | None:
        run = jobs.run_numbered(db, self._number)
        if run is None:
            return None
        return run, jobs.job_numbered(db, run.job), jobs.arguments_of(db, run.job)

    async def _step(self, run: Run, job: Job, arguments: dict[str, str]) -> None:
        if run.state == "pending":
            await self._move(run, "preparing")
        elif run.state == "preparing":
            await self._prepare(run, job, arguments)
        elif run.state == "running":
            await self._collect(run, job)
        else:
            await self._score(run, job)

    async def _prepare(self, run: Run, job: Job, arguments: dict[str, str]) -> None:
        tools = self._tools
        folder = tools.places.work(job.id, run.place)
        async with tools.steps:
            await prepare(
                tools.repository, tools.storage, tools.options, job, run, folder, arguments
            )
            results = await tools.results_for(job)
            await asyncio.to_thread(_keep_log, folder, results, run.name)
        await self._move(run, "running")

    async def _collect(self, run: Run, job: Job) -> None:
        tools = self._tools
        folder = tools.places.work(job.id, run.place)
        collecting = Collecting(tools.queue, tools.storage, tools.options, job, run, folder)
        while await collecting.step():
            now = await tools.storage.read(lambda db: jobs.run_numbered(db, run.number))
            if now is None or now.state != "running":
                return
        await self._move(run, "scoring")

    async def _score(self, run: Run, job: Job) -> None:
        tools = self._tools
        folder = tools.places.work(job.id, run.place)
        async with tools.steps:
            results = await tools.results_for(job)
            scoring = Scoring(tools.repository, tools.storage, job, run, folder, time.time())
            metrics = await scoring.score(results, folder / "score")
        if await tools.storage.write(lambda db: _scored(db, run, metrics)):
            self._ended("completed")

    async def _move(self, run: Run, state: RunState, error: str | None = None) -> bool:
        def change(db: Database) -> bool:
            if state in ("scoring", "failed") and run.total is not None:
                items.tally(db, run.number)
            return jobs.move(db, run, state, time.time(), error)

        return await self._tools.storage.write(change)

    async def _fail(self, run: Run, error: str) -> None:
        if await self._move(run, "failed", error[:MAX_ERROR]):
            self._ended("failed")


def _scored(db: Database, run: Run, metrics: dict[str, float | None]) -> bool:
    moved = jobs.move(db, run, "completed", time.time())
    if moved:
        jobs.set_metrics(db, run.number, metrics)
    return moved


def _keep_log(folder: Path, results: Path, name: str) -> None:
    """Copy the end of what `prepare` printed to the results."""
    parts = [_end(folder / file) for file in ("prepare.log", "prepare.out")]
    (results / f"{name}_prepare.log").write_bytes(b"".join(parts))


MAX_LOG = 1024 * 1024
"""Bytes of a log that are kept."""


def _end(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            opened.seek(max(opened.seek(0, 2) - MAX_LOG, 0))
            return opened.read()
    except OSError:
        return b""
