"""Whose sessions and traces a request sees and changes: its principal's own, or everybody's.

A session belongs to the principal that made it: by POST /sessions, or by the first of its calls
that was stored. Its traces belong to whom it does, whoever called; a trace of no session belongs to
its caller. What was made without authentication belongs to nobody, as did all before owners were
kept; it is left to those who may see everything.
"""

from collections.abc import Sequence

from gateway import ControlRequest

ALL_SESSIONS = "sessions:all"
"""The scope of principals that see everybody's."""


def maker(request: ControlRequest) -> str | None:
    """The id of whom a session made by the request belongs to; None: nobody."""
    return None if request.principal is None else request.principal.id


def owner_seen(request: ControlRequest) -> str | None:
    """The id of the principal whose sessions and traces alone the request is about.

    None: everybody's, by scope or because no plugin authenticates.
    """
    if request.principal is None or ALL_SESSIONS in request.principal.scopes:
        return None
    return request.principal.id


def is_one_of(session_ids: Sequence[str], owner: str | None) -> tuple[str, list[object]]:
    """An SQL condition on `session_id`, and its values: it is one of these, and the owner's.

    Owner None: anybody's. Another's session is as good as none at all.
    """
    places = ", ".join("?" * len(session_ids))
    if owner is None:
        return f"session_id IN ({places})", [*session_ids]
    relation = "=" if len(session_ids) == 1 else "IN"  # rows of one need no sorting
    # By +owner no index is looked up: the owner may have many more sessions than are asked for.
    theirs = f"SELECT session_id FROM sessions WHERE session_id IN ({places}) AND +owner = ?"
    return f"session_id {relation} ({theirs})", [*session_ids, owner]
