"""Reads and writes sessions in the database, and the settings that admin calls store there.

All functions take a Database; the storage commits their changes.
"""

from typing import Any

import msgspec

from gateway import Database, Forbidden, SessionInfo
from gateway_plugins.trace_capture.sessions.owners import sessions_condition

FIELDS = "session_id, traces, created_at, metadata, sampling_params, last_at, incomplete, lost"
"""The columns of a session for `info_of`, which files of every version have."""

TOKENS = "sampled, trainable"
"""Further columns for `info_of`."""


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
    rows = db.select(f"SELECT {FIELDS} FROM sessions WHERE {where}", params)
    return next(map(info_of, rows), None)


def add_tokens(db: Database, session: SessionInfo) -> None:
    """Set how many tokens a session has."""
    query = f"SELECT {TOKENS} FROM sessions WHERE session_id = :id"
    for sampled, trainable in db.select(query, {"id": session.session_id}):
        session.sampled_tokens, session.trainable_tokens = sampled, trainable


def exists(db: Database, session_id: str, owner: str | None = None) -> bool:
    """Whether there is such a session of the owner's (of any owner if `owner` is None)."""
    where, params = sessions_condition([session_id], owner)
    return any(db.select(f"SELECT 1 FROM sessions WHERE {where}", params))


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


def info_of(row: tuple[Any, ...]) -> SessionInfo:
    """Return the session of a row of FIELDS, or of FIELDS and TOKENS."""
    session_id, traces, created_at, metadata, params, last_at, incomplete, lost, *tokens = row
    sampled, trainable = tokens or (0, 0)
    return SessionInfo(
        session_id=session_id,
        trace_count=traces,
        created_at=created_at,
        metadata=msgspec.json.decode(metadata),
        sampling_params=msgspec.json.decode(params),
        last_at=last_at,
        incomplete=incomplete,
        lost=lost,
        sampled_tokens=sampled,
        trainable_tokens=trainable,
    )


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
