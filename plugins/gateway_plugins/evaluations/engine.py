"""Joins the rooms of the plugin, for one process."""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway import CallError, ConfigError, Database, Host, Storage, WorkQueue
from gateway_plugins.evaluations.children.confined import Failed
from gateway_plugins.evaluations.children.pythons import Pythons
from gateway_plugins.evaluations.children.removing import remove
from gateway_plugins.evaluations.children.repository import Evaluation, Repository
from gateway_plugins.evaluations.children.users import User, check, user_named
from gateway_plugins.evaluations.options import Options
from gateway_plugins.evaluations.report import Tally
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.jobs import Job, Run
from gateway_plugins.evaluations.running.carrier import Tools
from gateway_plugins.evaluations.running.conductor import Conductor
from gateway_plugins.evaluations.running.places import Places
from gateway_plugins.evaluations.running.scoring import Scoring, score_again

SPARE_THREADS = 4
"""Threads beside those of the steps: for lists, and for environments that are built."""


POLL = 0.1
"""Seconds between two looks at a job that a request waits for."""


class Unlistable(CallError):
    """The repository of evaluations cannot be listed."""

    status = 500
    code = "evaluations_unavailable"


class Conflict(CallError):
    """The state of the job does not permit what is asked for."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class Engine:
    """The evaluations of one gateway. Raises ConfigError if the gateway has no queue."""

    def __init__(self, gateway: Host, options: Options, tally: Tally) -> None:
        queue = next((hook.run(gateway) for hook in gateway.hooks("work_queue")), None)
        if queue is None:
            raise ConfigError("plugin evaluations: needs a queue; add `batch` to plugins")
        work_queue: WorkQueue = queue
        self.options = options
        self._gateway = gateway
        self._tally = tally
        self._temporary = _is_temporary(gateway, options)
        self.places = Places(_folder(gateway, options))
        self._threads = ThreadPoolExecutor(options.prepare_concurrency + SPARE_THREADS, "evals")
        user = self._user()
        pythons = Pythons(self.places.pythons, options, self._threads, user)
        folder = self.places.folder
        self.repository = Repository(options, pythons, self._threads, user, folder)
        self.storage: Storage = gateway.storage
        self._tools = Tools(self.storage, work_queue, options, self.repository, self.places)
        self.conductor = Conductor(self._tools, tally.ended)
        self._listing = asyncio.Lock()

    def _user(self) -> User | None:
        """Return the user of evaluations, who can use what they need. Raises ConfigError."""
        options = self.options
        user = user_named(options.user)
        if user is not None:
            repository = Path(options.repository).absolute()
            there = [one for one in (repository, repository / "evals") if one.exists()]
            check(user, options.python or sys.executable, self.places.folder, *there)
        return user

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Carry evaluations between entry and exit."""
        task = asyncio.create_task(self.conductor.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            await asyncio.to_thread(self._threads.shutdown)
            if self._temporary:
                await asyncio.to_thread(remove, self.places.folder)

    async def evaluations(self) -> list[Evaluation]:
        """Return the evaluations of the repository. Raises Unlistable."""
        async with self._listing:
            folder = self.places.listing()
            try:
                return await self.repository.evaluations(folder)
            except (Failed, OSError) as error:
                raise Unlistable(f"the evaluations cannot be listed: {error}") from None

    async def score_again(self, job: Job, run: Run) -> dict[str, float | None]:
        """Score an evaluation that has ended once more. Raises Failed, StorageError."""
        if not run.is_over:
            raise Failed(f"it is {run.state}")
        if not run.has_items or run.total is None:
            raise Failed(
                "its requests and responses are not kept any more, or there never were any"
            )
        folder = self.places.work(job.id, run.place)
        work = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="score-", dir=folder))
        async with self._tools.steps:
            results = await self._tools.results_for(job)
            scoring = Scoring(self.repository, self.storage, job, run, folder, time.time())
            return await score_again(scoring, self.storage, run, results, work)

    async def wait(self, job: Job, seconds: float) -> None:
        """Return as soon as the job has ended, after `seconds`, or if the gateway drains."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0 and not self._gateway.draining:
            now = await self.storage.read(lambda db: jobs.job_of(db, job.id))
            if now is None or now.ended is not None:
                return
            await asyncio.sleep(min(left, POLL))

    async def cancel(self, job: Job) -> None:
        """End a job; its items leave the queue soon after. Raises Conflict if it has ended."""
        canceled = await self.storage.write(lambda db: jobs.cancel(db, job, time.time()))
        if not canceled:
            raise Conflict("the job is over, so it cannot be canceled; GET shows how it ended")
        for _ in range(canceled):
            self._tally.ended("canceled")
        self.conductor.wake()

    async def resume(self, job: Job) -> None:
        """Run what failed or was canceled once more. Raises Conflict if there is nothing."""
        resumed = await self.storage.write(lambda db: resume(db, job, time.time()))
        if not resumed:
            raise Conflict(f"the job is {job.state}, and nothing of it failed or was canceled")
        self.conductor.wake()


def resume(db: Database, job: Job, now: float) -> int:
    """Let evaluations that failed, were canceled, or have failed items go on; return how many."""
    resumed = 0
    for run in jobs.runs_of(db, job.number):
        if not run.is_over:
            continue
        if not run.has_items:
            resumed += run.state != "completed" and jobs.move(db, run, "pending", now)
            continue
        counts = items.counts(db, run.number)
        if run.state != "completed" or counts["failed"] or counts["canceled"]:
            items.again(db, run.number)
            resumed += jobs.move(db, run, "running", now)
    return resumed


def _is_temporary(gateway: Host, options: Options) -> bool:
    return options.folder is None and gateway.config.storage.in_memory


def _folder(gateway: Host, options: Options) -> Path:
    """Return the folder of files; a temporary one if the database is in memory."""
    if options.folder is not None:
        return Path(options.folder).absolute()
    if _is_temporary(gateway, options):
        return Path(tempfile.mkdtemp(prefix="gateway-evaluations-"))
    path = gateway.storage.path.absolute()
    return path.with_name(f"{path.name}-evaluations")
