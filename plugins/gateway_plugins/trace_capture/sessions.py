"""The sessions in the database, and the settings that admin calls leave there.

All functions take a connection; what they write is committed by the storage.
"""

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway import BadRequest, SessionInfo

_FIELDS = (
    "session_id, traces, created_at, metadata, sampling_params, last_at, incomplete, lost"
    " FROM sessions"
)


def put(
    db: sqlite3.Connection,
    session_id: str,
    *,
    now: float,
    metadata: dict[str, Any] | None = None,
    sampling_params: dict[str, Any] | None = None,
) -> None:
    """Create the session; of one that exists, replace what is given and keep the rest."""
    given = {"metadata": _json(metadata), "sampling_params": _json(sampling_params)}
    db.execute(
        "INSERT INTO sessions (session_id, created_at, last_at, metadata, sampling_params)"
        " VALUES (:id, :now, :now, coalesce(:metadata, '{}'), coalesce(:sampling_params, '{}'))"
        " ON CONFLICT (session_id) DO UPDATE SET metadata = coalesce(:metadata, metadata),"
        " sampling_params = coalesce(:sampling_params, sampling_params)",
        {"id": session_id, "now": now, **given},
    )


def get(db: sqlite3.Connection, session_id: str) -> SessionInfo | None:
    row = db.execute(f"SELECT {_FIELDS} WHERE session_id = ?", (session_id,)).fetchone()
    return None if row is None else _info(row)


def exists(db: sqlite3.Connection, session_id: str) -> bool:
    row = db.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
    return row is not None


class SessionList:
    """Those created at `since` (Unix seconds) or later, oldest first. A paging.Listing."""

    def __init__(self, since: float | None) -> None:
        self._since = since

    def rows(self, db: sqlite3.Connection, after: str | None) -> Iterator[tuple[str, bytes]]:
        where, values = self._where(after)
        query = f"SELECT {_FIELDS} WHERE {where} ORDER BY created_at, session_id"
        for row in db.execute(query, values):
            info = _info(row)
            yield _cursor(info.created_at, info.session_id), msgspec.json.encode(info)

    def last(self, db: sqlite3.Connection, after: str | None, limit: int) -> str | None:
        where, values = self._where(after)
        found = db.execute(
            f"SELECT created_at, session_id FROM sessions WHERE {where}"
            " ORDER BY created_at, session_id LIMIT 2 OFFSET ?",
            (*values, limit - 1),
        ).fetchall()
        return _cursor(*found[0]) if len(found) == 2 else None

    def _where(self, after: str | None) -> tuple[str, tuple[Any, ...]]:
        since = -1.0 if self._since is None else self._since
        if after is None:
            return "created_at >= ?", (since,)
        created_at, _, session_id = after.partition(",")
        try:
            return "created_at >= ? AND (created_at, session_id) > (?, ?)", (
                since,
                float(created_at),
                session_id,
            )
        except ValueError:
            raise BadRequest("no list of sessions gave this cursor", param="cursor") from None


def setting(db: sqlite3.Connection, name: str) -> Any:
    """None where it was never set."""
    query = "SELECT value FROM capture_settings WHERE name = ?"
    row = db.execute(query, (name,)).fetchone()
    return None if row is None else msgspec.json.decode(row[0])


def put_setting(db: sqlite3.Connection, name: str, value: Any) -> None:
    db.execute(
        "INSERT INTO capture_settings VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, _json(value)),
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


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
