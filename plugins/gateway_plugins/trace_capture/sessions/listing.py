"""Lists and searches sessions, in pages."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from gateway import BadRequest, Database, Verdict
from gateway_plugins.trace_capture.sessions.owners import SqlParams
from gateway_plugins.trace_capture.sessions.sessions import FIELDS, TOKENS, info_of

Order = Literal["oldest", "newest"]


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on sessions; all that are not None must hold.

    `since`: created then or later, in Unix seconds. `text` is a part of the id, in any case of
    ASCII letters. `owner` is the id of the principal that owns the sessions, see owners.py, and
    `parent` the session that started them. The other conditions hold for one and the same call of
    the session: `calls_since` is inclusive, `calls_until` exclusive, and `weight_version` is the
    text of the trace's weight version.
    """

    since: float | None = None
    text: str | None = None
    owner: str | None = None
    parent: str | None = None
    calls_since: float | None = None
    calls_until: float | None = None
    model: str | None = None
    worker: str | None = None
    weight_version: str | None = None
    verdict: Verdict | None = None


_OF_CALLS = {
    "calls_since": "timestamp >= :calls_since",
    "calls_until": "timestamp < :calls_until",
    "model": "model = :model",
    "worker": "worker = :worker",
    "weight_version": "version = :weight_version",
    "verdict": "complete = :verdict",
}
"""Conditions on a call, which the index of a session's traces answers alone."""

_OF_SESSIONS = {
    "since": "created_at >= :since",
    "owner": "owner = :owner",
    "parent": "one.session_id IN"
    " (SELECT session_id FROM session_parents WHERE parent_id = :parent)",
    "text": "one.session_id LIKE :text ESCAPE '!'",
    "calls_since": "last_at >= :calls_since",
}
"""Conditions on a session; the last one spares a look at the calls of most."""


class SessionList:
    """The sessions that match a filter, in the order of their creation. A paging.Listing."""

    def __init__(self, wanted: SessionFilter, order: Order = "oldest") -> None:
        self._where, self._params = _conditions(wanted)
        self._beyond, self._down = ("<", " DESC") if order == "newest" else (">", "")

    def rows(self, db: Database, after: str | None) -> Iterator[tuple[str, bytes]]:
        query, params = self._query(f"{FIELDS}, {TOKENS}", after)
        for row in db.select(query, params):
            info = info_of(row)
            yield _cursor(info.created_at, info.session_id), msgspec.json.encode(info)

    def last_of_page(self, db: Database, after: str | None, limit: int) -> str | None:
        query, params = self._query("created_at, session_id", after)
        query += " LIMIT 2 OFFSET :offset"
        found = list(db.select(query, {**params, "offset": limit - 1}))
        return _cursor(*found[0]) if len(found) == 2 else None

    def _query(self, fields: str, after: str | None) -> tuple[str, SqlParams]:
        where, params = self._where, self._params
        if after is not None:
            created_at, session_id = _position(after)
            where += f" AND (created_at, session_id) {self._beyond} (:after_time, :after_id)"
            params = {**params, "after_time": created_at, "after_id": session_id}
        order = f"created_at{self._down}, session_id{self._down}"
        return f"SELECT {fields} FROM sessions AS one WHERE {where} ORDER BY {order}", params


def _conditions(wanted: SessionFilter) -> tuple[str, SqlParams]:
    given = msgspec.structs.asdict(wanted)
    params: SqlParams = {name: value for name, value in given.items() if value is not None}
    if wanted.text is not None:
        params["text"] = f"%{_escaped(wanted.text)}%"
    if wanted.verdict is not None:
        params["verdict"] = wanted.verdict == "COMPLETE"
    found = [condition for name, condition in _OF_SESSIONS.items() if name in params]
    if calls := [condition for name, condition in _OF_CALLS.items() if name in params]:
        theirs = " AND ".join(["traces.session_id = one.session_id", *calls])
        found.append(f"EXISTS (SELECT 1 FROM traces WHERE {theirs})")
    return " AND ".join(found) or "TRUE", params


def _escaped(text: str) -> str:
    """Return a text in which no character has a meaning for LIKE."""
    for sign in "!%_":
        text = text.replace(sign, f"!{sign}")
    return text


def _cursor(created_at: float | None, session_id: str) -> str:
    return f"{created_at!r},{session_id}"


def _position(cursor: str) -> tuple[float, str]:
    created_at, _, session_id = cursor.partition(",")
    try:
        return float(created_at), session_id
    except ValueError:
        raise BadRequest("no list of sessions gave this cursor", param="cursor") from None
