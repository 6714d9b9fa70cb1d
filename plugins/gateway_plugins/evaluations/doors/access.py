"""What a caller may see: its own evaluations, with the scope `admin` all."""

from gateway import ControlRequest, Database, NotFound
from gateway_plugins.evaluations.rows import jobs
from gateway_plugins.evaluations.rows.jobs import Job

ADMIN = "admin"
"""Scope that sees the evaluations of every key."""


def visible_to(request: ControlRequest) -> str | None:
    """Return the id of the only owner whose evaluations the caller may see; None: it may see all.

    Without authentication every caller may see everything, as with all routes of the gateway.
    """
    principal = request.principal
    if principal is None or ADMIN in principal.scopes:
        return None
    return principal.id


def found(db: Database, job_id: str, owner: str | None) -> Job:
    """Return a job that the caller may see. Raises NotFound."""
    job = jobs.job_of(db, job_id, owner)
    if job is None:
        raise NotFound("there is no such evaluation job, or it is not kept any more")
    return job
