"""Reads and writes rewards in the database. Functions take a connection; the storage commits."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

from gateway import BadRequest, NotFound, Reward
from gateway_plugins.trace_capture.sessions import sessions
from gateway_plugins.trace_capture.sessions.owners import sessions_condition

_FIELDS = "number, value, source, trace_id, timestamp FROM rewards"


def add(db: sqlite3.Connection, session_id: str, reward: Reward, owner: str | None = None) -> None:
    """Store a reward.

    Raises NotFound if the owner has no such session, or if the session has no such trace. If
    `owner` is None, the session may be any owner's.
    """
    if not sessions.exists(db, session_id, owner):
        raise NotFound("there is no such session")
    if reward.trace_id is not None and not _has(db, session_id, reward.trace_id):
        raise NotFound("the session has no trace of this id", param="trace_id")
    db.execute(
        "INSERT INTO rewards (session_id, trace_id, value, source, timestamp)"
        " VALUES (?, ?, ?, ?, ?)",
        (session_id, reward.trace_id, reward.value, reward.source, reward.timestamp),
    )


def of_session(db: sqlite3.Connection, session_id: str) -> list[Reward]:
    """Return all rewards of a session, in the order in which they were given."""
    query = f"SELECT {_FIELDS} WHERE session_id = ? ORDER BY number"
    return [_reward(row) for row in db.execute(query, (session_id,))]


class RewardList:
    """The rewards of a session given at `since` (Unix seconds) or later. A paging.Listing.

    Empty if the session is not the owner's. If `owner` is None, it may be any owner's.
    """

    def __init__(self, session_id: str, since: float | None, owner: str | None = None) -> None:
        self._theirs, self._whose = sessions_condition([session_id], owner)
        self._since = -1.0 if since is None else since

    def rows(self, db: sqlite3.Connection, after: str | None) -> Iterator[tuple[str, bytes]]:
        query = f"SELECT {_FIELDS} WHERE {self._theirs} AND {_PAGE}"
        for row in db.execute(query, (*self._values(after), -1, 0)):
            yield str(row[0]), msgspec.json.encode(_reward(row))

    def last(self, db: sqlite3.Connection, after: str | None, limit: int) -> str | None:
        query = f"SELECT number FROM rewards WHERE {self._theirs} AND {_PAGE}"
        found = db.execute(query, (*self._values(after), 2, limit - 1)).fetchall()
        return str(found[0][0]) if len(found) == 2 else None

    def _values(self, after: str | None) -> tuple[Any, ...]:
        try:
            number = 0 if after is None else int(after)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 63:
            raise BadRequest("no list of rewards gave this cursor", param="cursor")
        return *self._whose, number, self._since


_PAGE = "number > ? AND timestamp >= ? ORDER BY number LIMIT ? OFFSET ?"


def _has(db: sqlite3.Connection, session_id: str, trace_id: str) -> bool:
    query = "SELECT 1 FROM traces WHERE trace_id = ? AND session_id = ?"
    return db.execute(query, (trace_id, session_id)).fetchone() is not None


def _reward(row: tuple[Any, ...]) -> Reward:
    _, value, source, trace_id, timestamp = row
    return Reward(value=value, source=source, trace_id=trace_id, timestamp=timestamp)
