"""Who asks, and what they may see: each caller its own objects, the scope `admin` all."""

from gateway import ControlRequest
from gateway_plugins.batch.queue.items import Owner

ADMIN = "admin"
"""Scope that sees the objects of every owner."""


def owner_of(request: ControlRequest) -> Owner:
    """Return the owner of what this request creates; its `id` is "" if nobody authenticates."""
    return Owner(request.principal)


def visible_to(request: ControlRequest) -> str | None:
    """Return the id of the only owner whose objects the caller may see; None: it may see all.

    Without authentication every caller may see everything, as with all routes of the gateway.
    """
    principal = request.principal
    if principal is None or ADMIN in principal.scopes:
        return None
    return principal.id
