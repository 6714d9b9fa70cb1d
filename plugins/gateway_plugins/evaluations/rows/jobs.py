"""Jobs and the evaluations of each: their states, and what changes them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from gateway import Database, Value

JobState = Literal["pending", "submitting", "running", "completed", "failed", "canceled"]
RunState = Literal["pending", "preparing", "running", "scoring", "completed", "failed", "canceled"]

OVER = frozenset(("completed", "failed", "canceled"))
"""States of jobs and of evaluations that have ended."""


class Job(msgspec.Struct, kw_only=True):
    """A row of `eval_jobs`. `principal` is the JSON of a Principal; `named`: evaluations were.

    `traceparent` is the header of the request that added it.
    """

    number: int
    id: str
    owner: str
    principal: str | None
    model: str
    state: JobState
    created: float
    ended: float | None
    named: int
    is_base_override: int | None
    is_base: int
    reasoning: int
    priority: int
    folder: str | None
    error: str | None
    traceparent: str | None


class Run(msgspec.Struct, kw_only=True):
    """A row of `eval_runs`: one evaluation of a job.

    `completed` and `failed` count its items once all have ended. `has_items`: they are kept.
    """

    number: int
    job: int
    place: int
    name: str
    state: RunState
    error: str | None
    total: int | None
    completed: int | None
    failed: int | None
    max_concurrency: int | None
    started: float | None
    ended: float | None
    has_items: int

    @property
    def is_over(self) -> bool:
        return self.state in OVER


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to add. `arguments` are JSON texts."""

    id: str
    owner: str
    principal: str | None
    model: str
    created: float
    names: Sequence[str]
    named: bool
    arguments: Mapping[str, str]
    is_base_override: bool | None
    is_base: bool
    reasoning: bool
    priority: int
    traceparent: str | None = None


_JOB = f"SELECT {', '.join(Job.__struct_fields__)} FROM eval_jobs"
_RUN = f"SELECT {', '.join(Run.__struct_fields__)} FROM eval_runs"


def unfinished_of(db: Database, owner: str) -> int:
    """Return how many jobs of this owner have not ended."""
    query = "SELECT count(*) FROM eval_jobs WHERE owner = :owner AND ended IS NULL"
    [(count,)] = db.select(query, {"owner": owner})
    return int(count)


def add(db: Database, new: NewJob) -> None:
    """Add a job, and an evaluation for each of its names."""
    [(last,)] = db.select("SELECT coalesce(max(number), 0) FROM eval_jobs")
    number = last + 1
    columns = "number, id, owner, principal, model, state, created, named, is_base_override,"
    row = (
        *(number, new.id, new.owner, new.principal, new.model, "pending", new.created, new.named),
        *(new.is_base_override, new.is_base, new.reasoning, new.priority, new.traceparent),
    )
    columns += " is_base, reasoning, priority, traceparent"
    db.insert(f"INSERT INTO eval_jobs ({columns})", [row])
    if new.arguments:
        rows = [(number, name, value) for name, value in new.arguments.items()]
        db.insert("INSERT INTO eval_arguments (job, name, value)", rows)
    runs = [(number, place, name, "pending") for place, name in enumerate(new.names)]
    db.insert("INSERT INTO eval_runs (job, place, name, state)", runs)


def job_of(db: Database, job_id: str, owner: str | None = None) -> Job | None:
    """Return the job of this id, and of this owner if one is given."""
    where = "" if owner is None else " AND owner = :owner"
    named: dict[str, Value] = {"id": job_id, "owner": owner}
    return next(_jobs(db, f"{_JOB} WHERE id = :id{where}", named), None)


def job_numbered(db: Database, number: int) -> Job:
    """Return a job that is there."""
    return next(_jobs(db, f"{_JOB} WHERE number = :number", {"number": number}))


def newest(db: Database, owner: str | None, model: str | None, limit: int) -> list[Job]:
    """Return jobs, the newest first."""
    query = f"{_JOB} WHERE {_VISIBLE} ORDER BY number DESC LIMIT :limit"
    return list(_jobs(db, query, {"owner": owner, "model": model, "limit": limit}))


_VISIBLE = "(:owner IS NULL OR owner = :owner) AND (:model IS NULL OR model = :model)"


def count(db: Database, owner: str | None, model: str | None) -> int:
    """Return how many jobs there are."""
    query = f"SELECT count(*) FROM eval_jobs WHERE {_VISIBLE}"
    [(found,)] = db.select(query, {"owner": owner, "model": model})
    return int(found)


def arguments_of(db: Database, job: int) -> dict[str, str]:
    """Return the arguments of a job, as JSON texts."""
    query = "SELECT name, value FROM eval_arguments WHERE job = :job ORDER BY name"
    return dict(db.select(query, {"job": job}))


def runs_of(db: Database, job: int) -> list[Run]:
    """Return the evaluations of a job in their order."""
    return list(_runs(db, f"{_RUN} WHERE job = :job ORDER BY place", {"job": job}))


def run_numbered(db: Database, number: int) -> Run | None:
    """Return an evaluation, None if it is gone."""
    return next(_runs(db, f"{_RUN} WHERE number = :number", {"number": number}), None)


def unfinished(db: Database) -> list[int]:
    """Return the evaluations that have not ended, the oldest first."""
    query = "SELECT number FROM eval_runs WHERE ended IS NULL ORDER BY number"
    return [number for (number,) in db.select(query)]


_MOVE = """
UPDATE eval_runs SET state = :state, error = :error, ended = :ended,
    started = coalesce(started, :now)
WHERE number = :number AND state = :before
"""


def move(db: Database, run: Run, state: RunState, now: float, error: str | None = None) -> bool:
    """Give an evaluation, and its job, another state; False if its state is another already."""
    named: dict[str, Value] = {
        "number": run.number,
        "before": run.state,
        "state": state,
        "error": error,
        "ended": now if state in OVER else None,
        "now": now,
    }
    moved = db.execute(_MOVE, named) == 1
    if moved:
        settle(db, run.job, now)
    return moved


def cancel(db: Database, job: Job, now: float) -> int:
    """End all evaluations of a job that have not ended; return how many."""
    query = (
        "UPDATE eval_runs SET state = 'canceled', ended = :now WHERE job = :job AND ended IS NULL"
    )
    changed = db.execute(query, {"job": job.number, "now": now})
    if changed:
        settle(db, job.number, now)
    return changed


def settle(db: Database, number: int, now: float) -> None:
    """Give a job the state that follows from those of its evaluations."""
    runs = runs_of(db, number)
    state, error = _state_of(runs), _error_of(runs)
    query = "UPDATE eval_jobs SET state = :state, error = :error, ended = :ended WHERE number = :n"
    ended = now if state in OVER else None
    db.execute(query, {"n": number, "state": state, "error": error, "ended": ended})


def _state_of(runs: Sequence[Run]) -> JobState:
    states = {run.state for run in runs}
    if states <= OVER:
        return _end_of(states)
    if states <= {"pending", *OVER}:
        return "pending" if states == {"pending"} else "submitting"
    return "submitting" if states & {"pending", "preparing"} else "running"


def _end_of(states: set[RunState]) -> JobState:
    if "canceled" in states:
        return "canceled"
    return "completed" if "completed" in states else "failed"


def _error_of(runs: Sequence[Run]) -> str | None:
    failed = [run.name for run in runs if run.state == "failed"]
    if not failed:
        return None
    return f"{len(failed)} of {len(runs)} evaluations failed: {', '.join(failed)}"


def set_folder(db: Database, number: int, folder: str) -> None:
    """Note the folder of a job's results."""
    query = "UPDATE eval_jobs SET folder = :folder WHERE number = :number"
    db.execute(query, {"number": number, "folder": folder})


def set_metrics(db: Database, run: int, metrics: Mapping[str, float | None]) -> None:
    """Replace the scores of an evaluation."""
    db.execute("DELETE FROM eval_metrics WHERE run = :run", {"run": run})
    if metrics:
        rows = [(run, name, value) for name, value in metrics.items()]
        db.insert("INSERT INTO eval_metrics (run, name, value)", rows)


def metrics_of(db: Database, run: int) -> dict[str, float | None]:
    """Return the scores of an evaluation."""
    query = "SELECT name, value FROM eval_metrics WHERE run = :run ORDER BY name"
    return dict(db.select(query, {"run": run}))


def forget(db: Database, ended_before: float) -> list[str]:
    """Delete jobs that have ended before that, and all of them; return their ids."""
    query = "SELECT number, id FROM eval_jobs WHERE ended < :before LIMIT 100"
    found = list(db.select(query, {"before": ended_before}))
    for number, _ in found:
        for run in runs_of(db, number):
            for table in ("eval_items", "eval_answers", "eval_metrics"):
                db.execute(f"DELETE FROM {table} WHERE run = :run", {"run": run.number})
        for table in ("eval_arguments", "eval_runs"):
            db.execute(f"DELETE FROM {table} WHERE job = :job", {"job": number})
        db.execute("DELETE FROM eval_jobs WHERE number = :job", {"job": number})
    return [job_id for _, job_id in found]


def _jobs(db: Database, query: str, named: Mapping[str, Value]) -> Iterator[Job]:
    for row in db.select(query, dict(named)):
        yield Job(**dict(zip(Job.__struct_fields__, row, strict=True)))


def _runs(db: Database, query: str, named: Mapping[str, Value]) -> Iterator[Run]:
    for row in db.select(query, dict(named)):
        yield Run(**dict(zip(Run.__struct_fields__, row, strict=True)))
