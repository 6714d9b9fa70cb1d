"""Which sessions and traces a request may see and change: its principal's own, or all.

A session belongs to the principal that made it: by POST /sessions, or by the first of its calls
that was stored. Its traces have the session's owner, whichever principal called; a trace without a
session belongs to its caller. Sessions and traces have no owner if they were made without
authentication, or before owners were stored; only requests that may see all see these.
"""

from collections.abc import Sequence

from gateway import ControlRequest

ALL_SESSIONS = "sessions:all"
"""The scope of principals that see all sessions and traces."""


def creator(request: ControlRequest) -> str | None:
    """Return the owner's id for a session that the request makes; None if it has no principal."""
    return None if request.principal is None else request.principal.id


def visible_owner(request: ControlRequest) -> str | None:
    """Return the id of the principal to whose sessions and traces the request is restricted.

    None if the request may see all of them, by its scope or because no plugin authenticates.
    """
    if request.principal is None or ALL_SESSIONS in request.principal.scopes:
        return None
    return request.principal.id


def sessions_condition(session_ids: Sequence[str], owner: str | None) -> tuple[str, list[object]]:
    """Return an SQL condition, with its values: `session_id` is one of these, and the owner's.

    If `owner` is None, any owner's sessions match. Sessions of another owner never match.
    """
    places = ", ".join("?" * len(session_ids))
    if owner is None:
        return f"session_id IN ({places})", [*session_ids]
    relation = "=" if len(session_ids) == 1 else "IN"  # rows of one session need no sorting
    # +owner disables the index on owner: the owner may have many more sessions than requested.
    theirs = f"SELECT session_id FROM sessions WHERE session_id IN ({places}) AND +owner = ?"
    return f"session_id {relation} ({theirs})", [*session_ids, owner]
