"""Notes which sessions have grown, and which have got a reward.

Traces and rewards are noted in the order of their numbers, when a trainer asks for trajectories, so
a call costs nothing more. `handover_seen` has the last ones that were.
"""

from gateway import Database

SLICE = 2_000
"""Rows that are looked at in one transaction."""

_SEEN = "SELECT number, reward FROM handover_seen"

_TRACES = """
SELECT number, session_id, timestamp FROM traces WHERE number > :after ORDER BY number LIMIT :limit
"""

_GROW = "INSERT INTO handover_sessions (session_id, number, last_at)"
_ON_CONFLICT = """
ON CONFLICT (session_id) DO UPDATE SET
    number = excluded.number, last_at = max(last_at, excluded.last_at), grown = 1
"""

_NEW = """
UPDATE handover_sessions SET
    owner = (SELECT owner FROM sessions WHERE sessions.session_id = handover_sessions.session_id),
    rewarded = EXISTS (
        SELECT 1 FROM rewards
        WHERE rewards.session_id = handover_sessions.session_id AND trace_id IS NULL
    )
WHERE session_id = :session_id
"""

_REWARDS = """
SELECT number, session_id, trace_id FROM rewards
WHERE number > :after ORDER BY number LIMIT :limit
"""

_REWARD = "UPDATE handover_sessions SET rewarded = 1 WHERE session_id = :session_id"


def take_in(db: Database) -> bool:
    """Note the next SLICE of traces and of rewards; return whether there may be more."""
    [(number, reward)] = db.select(_SEEN)
    traces = list(db.select(_TRACES, {"after": number, "limit": SLICE}))
    rewards = list(db.select(_REWARDS, {"after": reward, "limit": SLICE}))
    if not traces and not rewards:
        return False
    _grow(db, traces)
    for session_id in {row[1] for row in rewards if row[2] is None}:
        db.execute(_REWARD, {"session_id": session_id})
    seen = {
        "number": traces[-1][0] if traces else number,
        "reward": rewards[-1][0] if rewards else reward,
    }
    db.execute("UPDATE handover_seen SET number = :number, reward = :reward", seen)
    return SLICE in (len(traces), len(rewards))


def _grow(db: Database, traces: list[tuple[int, str | None, float]]) -> None:
    found: dict[str, tuple[int, float]] = {}
    for number, session_id, at in traces:
        if session_id is not None:
            found[session_id] = number, max(at, found.get(session_id, (0, at))[1])
    if found:
        db.insert(_GROW, [(name, *values) for name, values in found.items()], _ON_CONFLICT)
    for session_id in found:
        db.execute(_NEW, {"session_id": session_id})
