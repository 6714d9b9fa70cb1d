"""How many trajectories are in which state, for operators."""

from collections.abc import Iterator
from typing import NamedTuple

from gateway import Database

_STATES = (
    ("unread sessions", "last_at", "handover_sessions WHERE grown = 1"),
    ("open", "at", "handover_open WHERE complete = 1"),
    ("open INCOMPLETE", "at", "handover_open WHERE complete = 0"),
    ("claimed", "at", "handover_claims WHERE state = 0"),
    ("acknowledged", "at", "handover_claims WHERE state = 1"),
    ("stale", "at", "handover_claims WHERE state = 2"),
    ("expired", "at", "handover_claims WHERE state = 3"),
    ("released", "at", "handover_claims WHERE state = 4"),
    ("unreadable", "at", "handover_claims WHERE state = 5"),
)


class State(NamedTuple):
    """`number` trajectories (or sessions) are in a state; the `oldest` call is of that time.

    Times are Unix seconds; None if there is nothing in that state.
    """

    state: str
    number: int
    oldest: float | None


def states(db: Database) -> Iterator[State]:
    """Yield all states. Raises StorageError if the file has none, as one of an earlier version."""
    for state, at, where in _STATES:
        for number, oldest in db.select(f"SELECT count(*), min({at}) FROM {where}"):
            yield State(state, number, oldest)
