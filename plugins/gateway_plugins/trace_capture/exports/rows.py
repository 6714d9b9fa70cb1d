"""Rows of trajectories as the gateway itself has them."""

from typing import Any

import msgspec

from gateway import Reward, SessionInfo, Trajectory


class TrajectoryRow(Trajectory, kw_only=True):
    """A self-contained trajectory: with its session's id and metadata.

    `session_rewards` are the rewards of the session as a whole, `rewards` those of the trajectory's
    traces. `session_lost` is the number of the session's calls that could not be stored.
    """

    session_id: str
    session_metadata: dict[str, Any]
    session_rewards: list[Reward]
    session_lost: int


def row_of(one: Trajectory, session: SessionInfo, rewards: list[Reward]) -> TrajectoryRow:
    """Return the row of a trajectory; `rewards` are those of the session as a whole."""
    return TrajectoryRow(
        **msgspec.structs.asdict(one),
        session_id=session.session_id,
        session_metadata=session.metadata,
        session_rewards=rewards,
        session_lost=session.lost,
    )
