"""Which sessions were deleted lately: calls that had begun by then leave no trace behind.

Times are `time.monotonic()`, a clock that all processes of a machine share and that nobody sets. A
time in the future is that of an earlier boot, and counts for nothing.
"""

import time
from collections.abc import Sequence

from gateway import Database
from gateway_plugins.trace_capture.sessions.owners import SqlParams

KEEP_SECONDS = 86_400.0
"""Seconds after which a deletion is forgotten: no call runs that long."""

MAX_KEPT = 200_000
"""Maximum number of deletions to remember; the oldest are forgotten first."""

EVERYBODY = ""
"""In place of a caller: the deletion applies to the calls of all."""

# A key deletes its own session with the calls that others make into it. A session that is not
# stored yet belongs to nobody, so only the key's own calls are covered.
_MARK = """
INSERT INTO deleted_sessions (session_id, caller, deleted_at)
SELECT :session_id, CASE WHEN :owner IS NULL OR stored THEN '' ELSE :owner END, :now
FROM (SELECT EXISTS (SELECT 1 FROM sessions WHERE session_id = :session_id) AS stored)
WHERE :owner IS NULL OR NOT stored
    OR (SELECT owner FROM sessions WHERE session_id = :session_id) = :owner
ON CONFLICT (session_id, caller) DO UPDATE SET deleted_at = excluded.deleted_at
"""

_NEWEST = "SELECT max(deleted_at) FROM deleted_sessions WHERE deleted_at <= :now"

_OF_SESSION = """
SELECT 1 FROM deleted_sessions
WHERE session_id = :session_id AND caller IN (:everybody, :caller)
    AND deleted_at >= :started AND deleted_at <= :now
"""

_FORGET = """
DELETE FROM deleted_sessions WHERE deleted_at < :before OR deleted_at > :now OR deleted_at <= (
    SELECT deleted_at FROM deleted_sessions ORDER BY deleted_at DESC LIMIT 1 OFFSET :most
)
"""


def mark(db: Database, session_ids: Sequence[str], owner: str | None) -> None:
    """Note that these sessions are deleted now; call it before their rows are deleted.

    Sessions of another owner are left out. If `owner` is None, any owner's are deleted.
    """
    now = time.monotonic()
    for session_id in session_ids:
        db.execute(_MARK, {"session_id": session_id, "owner": owner, "now": now})


def forget_old(db: Database, keep: float = KEEP_SECONDS, most: int = MAX_KEPT) -> None:
    """Forget all but the newest `most` deletions of the latest `keep` seconds."""
    now = time.monotonic()
    db.execute(_FORGET, {"before": now - keep, "now": now, "most": most})


class Deletions:
    """Answers whether a session was deleted after a call began. For the writer's thread."""

    def __init__(self) -> None:
        self._newest: float | None = None

    def look_again(self) -> None:
        """Read the file again: this process or another one has deleted sessions."""
        self._newest = None

    def newest(self, db: Database) -> float:
        """Return the time of the latest deletion: calls that began later are not covered."""
        if self._newest is None:
            [(newest,)] = db.select(_NEWEST, {"now": time.monotonic()})
            self._newest = -1.0 if newest is None else newest
        return self._newest

    def cover(
        self, db: Database, session_id: str | None, caller: str | None, started: float
    ) -> bool:
        """Whether the session was deleted since `started`, for a call of `caller`."""
        newest = self._newest
        if session_id is None or started > (self.newest(db) if newest is None else newest):
            return False
        wanted: SqlParams = {
            "session_id": session_id,
            "everybody": EVERYBODY,
            "caller": caller or EVERYBODY,
            "started": started,
            "now": time.monotonic(),
        }
        return any(db.select(_OF_SESSION, wanted))
