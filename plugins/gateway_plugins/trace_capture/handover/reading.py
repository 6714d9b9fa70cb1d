"""Builds the trajectories that were claimed, as they were when they were opened."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from gateway import Database, Reward, SessionInfo, Trajectory
from gateway_plugins.trace_capture.handover.claiming import Claim
from gateway_plugins.trace_capture.handover.unfolding import traces_upto
from gateway_plugins.trace_capture.sequences.trajectories import Branch, Tree, add_rewards
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.store.row_decoder import UnreadableRow

log = logging.getLogger("gateway.trace_capture")

MAX_BYTES = 64 << 20
"""Bytes of the trajectories of one response, with all that is told of their sessions."""


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


class Built(msgspec.Struct, frozen=True):
    """Claimed trajectories as JSON, in order; the claims `left`, which were too much for one
    response; and those whose session was deleted or damaged since, which are `unreadable`.
    """

    claims: list[msgspec.Raw]
    left: list[Claim]
    unreadable: list[Claim]


def read(db: Database, claims: Sequence[Claim]) -> Built:
    """Build what was claimed: up to MAX_BYTES, and at least one trajectory."""
    groups: defaultdict[tuple[str, int], list[Claim]] = defaultdict(list)
    for claim in claims:
        groups[claim.row.session_id, claim.row.upto].append(claim)
    found: dict[str, bytes] = {}
    left: set[str] = set()
    room = MAX_BYTES
    for (session_id, upto), group in groups.items():
        if room <= 0:
            left.update(claim.receipt for claim in group)
            continue
        for made in _of_session(db, session_id, upto, group):
            data = msgspec.json.encode(made)
            if found and len(data) > room:
                left.add(made.receipt)
            else:
                found[made.receipt] = data
                room -= len(data)
    return Built(
        [msgspec.Raw(found[claim.receipt]) for claim in claims if claim.receipt in found],
        [claim for claim in claims if claim.receipt in left],
        [claim for claim in claims if claim.receipt not in left and claim.receipt not in found],
    )


def _of_session(
    db: Database, session_id: str, upto: int, claims: Sequence[Claim]
) -> Iterator[ClaimedTrajectory]:
    session = sessions.get(db, session_id)
    if session is None:
        return
    wanted = {(claim.row.trace_id, claim.row.choice): claim for claim in claims}
    given = rewards.of_session(db, session_id)
    try:
        tree = Tree(traces_upto(db, session_id, upto))
    except UnreadableRow as error:
        log.warning(
            "claims of the session %r cannot be read, nobody gets them: %s", session_id, error
        )
        return
    for branch in tree.branches():
        claim = wanted.get((branch.turns[-1].trace_id, branch.turns[-1].choice))
        if claim is not None:
            yield _claimed(claim, branch, session, given)


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
