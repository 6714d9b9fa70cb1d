"""What people see of evaluations: the newest jobs, and the newest scores of each model."""

from collections.abc import Mapping, Sequence

from gateway import Cell, Database, Panel, PanelAction, PanelRows, Storage
from gateway_plugins.evaluations.rows import jobs

CANCEL = PanelAction(
    label="Cancel",
    effect="The job is canceled, with its items that have not ended.",
    path="/eval/{job_id}",
    method="DELETE",
    column="status",
    values=("pending", "submitting", "running"),
)
RESUME = PanelAction(
    label="Resume",
    effect="What failed or was canceled runs once more.",
    path="/eval/{job_id}/resume",
    column="status",
    values=("failed", "canceled"),
)


class EvaluationPanels:
    """The panels, read from the database."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def all(self) -> Sequence[Panel]:
        """Return the panels."""
        return [
            Panel(
                name="evaluations",
                title="Evaluations",
                scope="monitor",
                read=self._jobs,
                actions=[CANCEL, RESUME],
            ),
            Panel(name="scores", title="Scores", scope="monitor", read=self._scores, live=False),
        ]

    async def _jobs(self, limit: int) -> PanelRows:
        return await self._storage.read(lambda db: _jobs(db, limit))

    async def _scores(self, limit: int) -> PanelRows:
        return await self._storage.read(lambda db: PanelRows(_scores(db, limit)))


def _jobs(db: Database, limit: int) -> PanelRows:
    rows = [
        {
            "job_id": job.id,
            "model": job.model,
            "status": job.state,
            "evaluations": ", ".join(run.name for run in jobs.runs_of(db, job.number)),
            "created_at": job.created,
            "ended_at": job.ended,
            "error": job.error,
        }
        for job in jobs.newest(db, None, None, limit)
    ]
    return PanelRows(rows, jobs.count(db, None, None))


def _scores(db: Database, limit: int) -> Sequence[Mapping[str, Cell]]:
    return [
        {"model": model, "evaluation": name, "metric": metric, "value": value, "ended_at": ended}
        for model, name, metric, value, ended in db.select(_NEWEST, {"limit": limit})
    ]


_NEWEST = """
SELECT j.model, r.name, m.name, m.value, r.ended FROM eval_runs AS r
    JOIN eval_jobs AS j ON j.number = r.job JOIN eval_metrics AS m ON m.run = r.number
WHERE r.number IN (
    SELECT max(r.number) FROM eval_runs AS r JOIN eval_jobs AS j ON j.number = r.job
    WHERE r.state = 'completed' GROUP BY j.model, r.name
)
ORDER BY j.model, r.name, m.name LIMIT :limit
"""
