"""Reads and writes sessions in the database, and the settings that admin calls store there.

All functions take a Database; the storage commits their changes.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway import BadRequest, Database, Forbidden, SessionInfo
from gateway_plugins.trace_capture.sessions.owners import SqlParams, sessions_condition

_FIELDS = (
    "session_id, traces, created_at, metadata, sampling_params, last_at, incomplete, lost"
    " FROM sessions"
)


def put(
    db: Database,
    session_id: str,
    *,
    now: float,
    metadata: dict[str, Any] | None = None,
    sampling_params: dict[str, Any] | None = None,
    creator: str | None = None,
    owner: str | None = None,
) -> None:
    """Create a session owned by `creator`, or replace the given fields of an existing one.

    Raises Forbidden if the session exists and is not the owner's. If `owner` is None, it may be any
    owner's.
    """
    given = {"metadata": _json(metadata), "sampling_params": _json(sampling_params)}
    changed = db.execute(
        "INSERT INTO sessions (session_id, created_at, last_at, metadata, sampling_params, owner)"
        " VALUES (:id, :now, :now, coalesce(:metadata, '{}'), coalesce(:sampling_params, '{}'),"
        " :creator) ON CONFLICT (session_id) DO UPDATE SET"
        " metadata = coalesce(:metadata, metadata),"
        " sampling_params = coalesce(:sampling_params, sampling_params)"
        " WHERE :owner IS NULL OR owner = :owner",
        {"id": session_id, "now": now, "creator": creator, "owner": owner, **given},
    )
    if not changed:
        raise Forbidden(
            "this session id is not for this key; choose another, or leave it out and get one",
            param="session_id",
        )


def put_tito(db: Database, session_id: str, mode: str) -> None:
    """Set the session's mode of token-in/token-out."""
    db.execute(
        "INSERT INTO session_tito VALUES (:id, :mode)"
        " ON CONFLICT (session_id) DO UPDATE SET mode = excluded.mode",
        {"id": session_id, "mode": mode},
    )


def get_tito(db: Database, session_id: str) -> str | None:
    """Return the session's own mode of token-in/token-out."""
    query = "SELECT mode FROM session_tito WHERE session_id = :id"
    return next((str(mode) for (mode,) in db.select(query, {"id": session_id})), None)


def get_parent(db: Database, session_id: str) -> str | None:
    """Return the session that started this one, if a harness said so."""
    query = "SELECT parent_id FROM session_parents WHERE session_id = :id"
    return next((str(parent) for (parent,) in db.select(query, {"id": session_id})), None)


def get(db: Database, session_id: str, owner: str | None = None) -> SessionInfo | None:
    """Return a session; None if there is none, or if it is not the owner's.

    If `owner` is None, the session may be any owner's.
    """
    where, params = sessions_condition([session_id], owner)
    rows = db.select(f"SELECT {_FIELDS} WHERE {where}", params)
    return next(map(_info, rows), None)


def exists(db: Database, session_id: str, owner: str | None = None) -> bool:
    """Whether there is such a session of the owner's (of any owner if `owner` is None)."""
    where, params = sessions_condition([session_id], owner)
    return any(db.select(f"SELECT 1 FROM sessions WHERE {where}", params))


class SessionList:
    """The sessions created at `since` (Unix seconds) or later, oldest first. A paging.Listing.

    Only those of `owner`, and only those that the session `parent` started; all if these are None.
    """

    def __init__(
        self, since: float | None, owner: str | None = None, parent: str | None = None
    ) -> None:
        self._since = since
        self._owner = owner
        self._parent = parent

    def rows(self, db: Database, after: str | None) -> Iterator[tuple[str, bytes]]:
        where, params = self._where(after)
        query = f"SELECT {_FIELDS} WHERE {where} ORDER BY created_at, session_id"
        for row in db.select(query, params):
            info = _info(row)
            yield _cursor(info.created_at, info.session_id), msgspec.json.encode(info)

    def last_of_page(self, db: Database, after: str | None, limit: int) -> str | None:
        where, params = self._where(after)
        found = list(
            db.select(
                f"SELECT created_at, session_id FROM sessions WHERE {where}"
                " ORDER BY created_at, session_id LIMIT 2 OFFSET :offset",
                {**params, "offset": limit - 1},
            )
        )
        return _cursor(*found[0]) if len(found) == 2 else None

    def _where(self, after: str | None) -> tuple[str, SqlParams]:
        where = "created_at >= :since"
        params: SqlParams = {"since": -1.0 if self._since is None else self._since}
        if self._owner is not None:
            where += " AND owner = :owner"
            params["owner"] = self._owner
        if self._parent is not None:
            where += (
                " AND session_id IN"
                " (SELECT session_id FROM session_parents WHERE parent_id = :parent)"
            )
            params["parent"] = self._parent
        if after is not None:
            where += " AND (created_at, session_id) > (:after_time, :after_id)"
            params["after_time"], params["after_id"] = _position(after)
        return where, params


def setting(db: Database, name: str) -> Any:
    """Return the value of a setting; None if it was never set."""
    query = "SELECT value FROM capture_settings WHERE name = :name"
    values = (msgspec.json.decode(value) for (value,) in db.select(query, {"name": name}))
    return next(values, None)


def put_setting(db: Database, name: str, value: Any) -> None:
    db.execute(
        "INSERT INTO capture_settings VALUES (:name, :value)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        {"name": name, "value": _json(value)},
    )


def _info(row: tuple[Any, ...]) -> SessionInfo:
    session_id, traces, created_at, metadata, params, last_at, incomplete, lost = row
    return SessionInfo(
        session_id=session_id,
        trace_count=traces,
        created_at=created_at,
        metadata=msgspec.json.decode(metadata),
        sampling_params=msgspec.json.decode(params),
        last_at=last_at,
        incomplete=incomplete,
        lost=lost,
    )


def _cursor(created_at: float | None, session_id: str) -> str:
    return f"{created_at!r},{session_id}"


def _position(cursor: str) -> tuple[float, str]:
    created_at, _, session_id = cursor.partition(",")
    try:
        return float(created_at), session_id
    except ValueError:
        raise BadRequest("no list of sessions gave this cursor", param="cursor") from None


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
