"""Builds the trajectories that were claimed, as they were when they were opened."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import Database, Reward, SessionInfo, Trajectory
from gateway_plugins.trace_capture.handover.claiming import Claim
from gateway_plugins.trace_capture.handover.unfolding import traces_upto
from gateway_plugins.trace_capture.sequences.trajectories import Branch, Tree, add_rewards
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.store.row_decoder import UnreadableRow


class ClaimedTrajectory(Trajectory, kw_only=True):
    """A trajectory with the receipt of its claim, the end of its lease, and its session.

    The loss mask is 1 on the tokens that this claim is to teach. `deliveries` counts how often it
    was handed out, this time included. `session_rewards` are those of the session as a whole.
    """

    receipt: str
    lease_until: float
    deliveries: int
    session_id: str
    session_metadata: dict[str, Any]
    session_rewards: list[Reward]
    session_lost: int


def read(db: Database, claims: Sequence[Claim]) -> list[ClaimedTrajectory]:
    """Return what was claimed, in order, without what was deleted or damaged since."""
    groups: defaultdict[tuple[str, int], list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.row.session_id, claim.row.upto].append(claim)
    found: dict[str, ClaimedTrajectory] = {}
    for (session_id, upto), group in groups.items():
        found |= _of_session(db, session_id, upto, group)
    return [found[claim.receipt] for claim in claims if claim.receipt in found]


def _of_session(
    db: Database, session_id: str, upto: int, claims: Sequence[Claim]
) -> dict[str, ClaimedTrajectory]:
    session = sessions.get(db, session_id)
    if session is None:
        return {}
    wanted = {(claim.row.trace_id, claim.row.choice): claim for claim in claims}
    given = rewards.of_session(db, session_id)
    found = {}
    try:
        for branch in Tree(traces_upto(db, session_id, upto)).branches():
            claim = wanted.get((branch.turns[-1].trace_id, branch.turns[-1].choice))
            if claim is not None:
                found[claim.receipt] = _claimed(claim, branch, session, given)
    except UnreadableRow:
        return {}
    return found


def _claimed(
    claim: Claim, branch: Branch, session: SessionInfo, given: list[Reward]
) -> ClaimedTrajectory:
    taught = {turn.key for turn in claim.taught}
    turns = [turn for turn in branch.turns if (turn.trace_id, turn.choice) in taught]
    made = branch.trajectory(turns)
    add_rewards([made], given)
    return ClaimedTrajectory(
        **msgspec.structs.asdict(made),
        receipt=claim.receipt,
        lease_until=claim.until,
        deliveries=claim.row.deliveries,
        session_id=session.session_id,
        session_metadata=session.metadata,
        session_rewards=[reward for reward in given if reward.trace_id is None],
        session_lost=session.lost,
    )
