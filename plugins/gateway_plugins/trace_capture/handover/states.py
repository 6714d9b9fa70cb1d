"""How many trajectories are in which state, for operators."""

from collections.abc import Iterator
from typing import NamedTuple

from gateway import Database
from gateway_plugins.trace_capture.handover.turns import (
    ACKNOWLEDGED,
    DROPPED,
    EXPIRED,
    LEASED,
    RELEASED,
    UNREADABLE,
)

_STATES = (
    ("unread sessions", "last_at", "handover_sessions WHERE grown = 1"),
    ("open", "at", "handover_open WHERE complete = 1"),
    ("open INCOMPLETE", "at", "handover_open WHERE complete = 0"),
    ("claimed", "at", f"handover_claims WHERE state = {LEASED}"),
    ("acknowledged", "at", f"handover_claims WHERE state = {ACKNOWLEDGED}"),
    ("stale", "at", f"handover_claims WHERE state = {DROPPED}"),
    ("expired", "at", f"handover_claims WHERE state = {EXPIRED}"),
    ("released", "at", f"handover_claims WHERE state = {RELEASED}"),
    ("unreadable", "at", f"handover_claims WHERE state = {UNREADABLE}"),
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
