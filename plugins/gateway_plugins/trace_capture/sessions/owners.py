"""Which sessions and traces a request may see and change: its principal's own, or all.

A session belongs to the principal that made it: by POST /sessions, or by the first of its calls
that was stored. Its traces have the session's owner, whichever principal called; a trace without a
session belongs to its caller. Sessions and traces have no owner if they were made without
authentication, or before owners were stored; only requests that may see all see these.
"""

from collections.abc import Sequence

import msgspec

from gateway import ControlRequest, Value

SqlParams = dict[str, Value]
"""Values of the named parameters of a statement."""

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


def sessions_condition(session_ids: Sequence[str], owner: str | None) -> tuple[str, SqlParams]:
    """Return an SQL condition, with its parameters: `session_id` is one of these, and the owner's.

    If `owner` is None, any owner's sessions match. Sessions of another owner never match.
    """
    named, params = _named(session_ids)
    if owner is None:
        return f"session_id {named}", params
    relation = "=" if len(session_ids) == 1 else "IN"  # rows of one session need no sorting
    # +owner disables the index on owner: the owner may have many more sessions than requested.
    theirs = f"SELECT session_id FROM sessions WHERE session_id {named} AND +owner = :owner"
    return f"session_id {relation} ({theirs})", {**params, "owner": owner}


def _named(session_ids: Sequence[str]) -> tuple[str, SqlParams]:
    """Return the relation of a column to one of these ids, with its parameters.

    Many ids are one parameter: SQLite finds each parameter's name by going through all of them.
    """
    if len(session_ids) == 1:
        return "= :session_id", {"session_id": session_ids[0]}
    # json_each ends a text at a NUL, which no session id contains.
    ids = [session_id for session_id in session_ids if "\0" not in session_id]
    listed = msgspec.json.encode(ids).decode()
    return "IN (SELECT value FROM json_each(:session_ids))", {"session_ids": listed}
