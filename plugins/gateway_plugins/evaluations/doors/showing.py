"""What callers see of a job: its record, its items, and the matrix of scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway import NOT_JSON, Database
from gateway_plugins.evaluations.rows import items, jobs
from gateway_plugins.evaluations.rows.items import STATES, Item
from gateway_plugins.evaluations.rows.jobs import Job, Run
from gateway_plugins.evaluations.running.places import results_of, timestamp

MAX_DETAILS = 16 * 1024 * 1024
"""Bytes of a file of results from which the details are shown."""


class Status(msgspec.Struct, omit_defaults=True):
    """The state of one evaluation. `progress` is the items that have ended, of all."""

    status: str
    total: int | UnsetType | None = UNSET
    completed: int | UnsetType = UNSET
    failed: int | UnsetType = UNSET
    progress: str | UnsetType = UNSET
    results: Raw | Mapping[str, float | None] | UnsetType = UNSET
    details: Raw | UnsetType = UNSET
    error: str | UnsetType = UNSET
    file: str | UnsetType = UNSET


class Metadata(msgspec.Struct):
    """`eval_suite` are the names of the evaluations; `base_model`: as what the model is taken."""

    model: str
    timestamp: str
    eval_suite: list[str]
    reasoning_model: bool
    base_model: bool
    total_requests: int


class Record(msgspec.Struct):
    """A job as callers see it."""

    job_id: str
    model: str
    status: str
    created_at: str
    ended_at: str | None
    eval_status: dict[str, Status]
    completion_ids: list[str]
    eval_groups: dict[str, list[str]]
    requested_evals: list[str] | None
    prepare_args: dict[str, Raw]
    key_id: str
    is_base_override: bool | None
    results_folder: str | None
    metadata: Metadata
    error: str | None


class Brief(msgspec.Struct):
    """A job in a list."""

    job_id: str
    model: str
    status: str
    created_at: str
    ended_at: str | None
    eval_status: dict[str, str]
    key_id: str
    error: str | None


class ShownItem(msgspec.Struct):
    """One request of an evaluation. `status` is that of the latest response."""

    id: str
    index: int
    state: str
    attempts: int
    status: int | None
    error_code: str | None
    error: str | None


class Cell(msgspec.Struct):
    """The newest scores of a model in an evaluation."""

    job_id: str
    timestamp: str
    metrics: dict[str, float | None]


class Matrix(msgspec.Struct):
    """Models and evaluations; `metrics` are the names of the scores of each evaluation."""

    models: list[str]
    evals: list[str]
    metrics: dict[str, list[str]]
    cells: dict[str, dict[str, Cell]]


def record(db: Database, job: Job, *, brief: bool) -> Record:
    """Return a job as callers see it; `brief`: without ids of items and without details."""
    runs = jobs.runs_of(db, job.number)
    groups = {run.name: [] if brief else _ids(db, job, run) for run in runs}
    arguments = jobs.arguments_of(db, job.number)
    override = job.is_base_override
    return Record(
        job_id=job.id,
        model=job.model,
        status=job.state,
        created_at=timestamp(job.created),
        ended_at=None if job.ended is None else timestamp(job.ended),
        eval_status={run.name: _status(db, job, run, brief) for run in runs},
        completion_ids=[one for group in groups.values() for one in group],
        eval_groups=groups,
        requested_evals=[run.name for run in runs] if job.named else None,
        prepare_args={name: Raw(text.encode()) for name, text in arguments.items()},
        key_id=job.owner,
        is_base_override=None if override is None else bool(override),
        results_folder=job.folder,
        metadata=_metadata(job, runs),
        error=job.error,
    )


def _metadata(job: Job, runs: Sequence[Run]) -> Metadata:
    return Metadata(
        model=job.model,
        timestamp=timestamp(job.created),
        eval_suite=[run.name for run in runs],
        reasoning_model=bool(job.reasoning),
        base_model=bool(job.is_base),
        total_requests=sum(run.total or 0 for run in runs),
    )


def _ids(db: Database, job: Job, run: Run) -> list[str]:
    found = items.page(db, run.number, -1, run.total or 0)
    return [item.id(job.id, run.place) for item in found]


def _status(db: Database, job: Job, run: Run, brief: bool) -> Status:
    shown = Status(run.state)
    if run.total is not None:
        _count(db, run, shown)
    if run.state == "completed":
        file = results_of(job, run)
        shown.results = jobs.metrics_of(db, run.number)
        shown.file = UNSET if file is None else str(file)
        if not brief and file is not None:
            _add_details(shown, file)
    elif run.state == "failed":
        shown.error = run.error or ""
    return shown


def _count(db: Database, run: Run, shown: Status) -> None:
    if run.completed is None or not run.is_over:
        counts = items.counts(db, run.number)
        completed, failed = counts["completed"], counts["failed"] + counts["canceled"]
    else:
        completed, failed = run.completed, run.failed or 0
    shown.total, shown.completed, shown.failed = run.total, completed, failed
    shown.progress = f"{completed + failed}/{run.total}"


class _Results(msgspec.Struct):
    metrics: Raw = Raw(b"{}")
    details: Raw = Raw(b"{}")


def _add_details(shown: Status, file: Path) -> None:
    """Show what the file of results says; larger ones are named only."""
    try:
        if file.stat().st_size > MAX_DETAILS:
            return
        found = msgspec.json.decode(file.read_bytes(), type=_Results)
    except (OSError, *NOT_JSON):
        return
    shown.results, shown.details = found.metrics, found.details


def brief(db: Database, job: Job) -> Brief:
    """Return a job as lists show it."""
    return Brief(
        job.id,
        job.model,
        job.state,
        timestamp(job.created),
        None if job.ended is None else timestamp(job.ended),
        {run.name: run.state for run in jobs.runs_of(db, job.number)},
        job.owner,
        job.error,
    )


def item(one: Item, job: Job, run: Run) -> ShownItem:
    """Return an item as callers see it."""
    return ShownItem(
        one.id(job.id, run.place),
        one.place,
        STATES[one.state],
        one.tries,
        one.status,
        one.code,
        one.error,
    )


def matrix(db: Database, owner: str | None) -> Matrix:
    """Return the newest scores of each model in each evaluation that the owner ran."""
    shown = Matrix([], [], {}, {})
    for model, name, run, job_id, ended in db.select(_NEWEST, {"owner": owner}):
        found = jobs.metrics_of(db, run)
        shown.cells.setdefault(model, {})[name] = Cell(job_id, timestamp(ended), found)
        names = shown.metrics.setdefault(name, [])
        names += [metric for metric in found if metric not in names]
    shown.models, shown.evals = sorted(shown.cells), sorted(shown.metrics)
    return shown


_NEWEST = """
SELECT j.model, r.name, r.number, j.id, r.ended FROM eval_runs AS r
    JOIN eval_jobs AS j ON j.number = r.job
WHERE r.number IN (
    SELECT max(r.number) FROM eval_runs AS r JOIN eval_jobs AS j ON j.number = r.job
    WHERE r.state = 'completed' AND (:owner IS NULL OR j.owner = :owner)
    GROUP BY j.model, r.name
)
ORDER BY j.model, r.name
"""
