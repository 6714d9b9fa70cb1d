"""Reads and writes rewards in the database. Functions take a Database; the storage commits."""

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway import BadRequest, Database, NotFound, Reward
from gateway_plugins.trace_capture.sessions import sessions
from gateway_plugins.trace_capture.sessions.owners import SqlParams, sessions_condition

_FIELDS = "number, value, source, trace_id, timestamp FROM rewards"


def add(db: Database, session_id: str, reward: Reward, owner: str | None = None) -> None:
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
        " VALUES (:session_id, :trace_id, :value, :source, :timestamp)",
        {"session_id": session_id, **msgspec.structs.asdict(reward)},
    )


def of_session(db: Database, session_id: str) -> list[Reward]:
    """Return all rewards of a session, in the order in which they were given."""
    query = f"SELECT {_FIELDS} WHERE session_id = :session_id ORDER BY number"
    return [_reward(row) for row in db.select(query, {"session_id": session_id})]


class RewardList:
    """The rewards of a session given at `since` (Unix seconds) or later. A paging.Listing.

    Empty if the session is not the owner's. If `owner` is None, it may be any owner's.
    """

    def __init__(self, session_id: str, since: float | None, owner: str | None = None) -> None:
        self._of_session, self._params = sessions_condition([session_id], owner)
        self._since = -1.0 if since is None else since

    def rows(self, db: Database, after: str | None) -> Iterator[tuple[str, bytes]]:
        query = f"SELECT {_FIELDS} WHERE {self._of_session} AND {_PAGE}"
        for row in db.select(query, self._page(after, limit=-1, offset=0)):
            yield str(row[0]), msgspec.json.encode(_reward(row))

    def last_of_page(self, db: Database, after: str | None, limit: int) -> str | None:
        query = f"SELECT number FROM rewards WHERE {self._of_session} AND {_PAGE}"
        found = list(db.select(query, self._page(after, limit=2, offset=limit - 1)))
        return str(found[0][0]) if len(found) == 2 else None

    def _page(self, after: str | None, *, limit: int, offset: int) -> SqlParams:
        try:
            number = 0 if after is None else int(after)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 63:
            raise BadRequest("no list of rewards gave this cursor", param="cursor")
        page: SqlParams = {"after": number, "since": self._since, "limit": limit, "offset": offset}
        return {**self._params, **page}


_PAGE = "number > :after AND timestamp >= :since ORDER BY number LIMIT :limit OFFSET :offset"


def _has(db: Database, session_id: str, trace_id: str) -> bool:
    query = "SELECT 1 FROM traces WHERE trace_id = :trace_id AND session_id = :session_id"
    return any(db.select(query, {"trace_id": trace_id, "session_id": session_id}))


def _reward(row: tuple[Any, ...]) -> Reward:
    _, value, source, trace_id, timestamp = row
    return Reward(value=value, source=source, trace_id=trace_id, timestamp=timestamp)
