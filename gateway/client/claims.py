"""Claims of trajectories: their requests, and what the gateway returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.client.asks import Ask, GatewayClientError
from gateway.trace import Reward, Trajectory


class ClaimedTrajectory(Trajectory, kw_only=True):
    """A trajectory that is this claim's alone until `lease_until` (Unix seconds).

    The loss mask is 1 on the tokens that this claim teaches. `deliveries` counts how often it was
    handed out, this time included. `session_rewards` are those of the session as a whole, `rewards`
    those of the trajectory's calls.
    """

    receipt: str
    lease_until: float
    deliveries: int
    session_id: str
    session_metadata: dict[str, Any]
    session_rewards: list[Reward]
    session_lost: int


class Claims(msgspec.Struct, kw_only=True):
    """What was claimed. `more`: there may be more at once.

    `dropped` trajectories had too old weights. `weight_version` is the current one, None if none is
    known.
    """

    claims: list[ClaimedTrajectory]
    dropped: int = 0
    more: bool = False
    weight_version: int | None = None


class ClaimFailure(msgspec.Struct, kw_only=True):
    """A claim that could not be changed: `claim_taken` and other codes, see docs/handover.md."""

    receipt: str
    code: str
    message: str


class ClaimsChanged(msgspec.Struct, kw_only=True):
    """The receipts of the claims that are as was asked for now, and the others."""

    successful: list[str]
    failed: list[ClaimFailure] = []


def claim(
    n: int,
    lease: float | None,
    order: str | None,
    where: Mapping[str, Any] | None,
    *,
    drop_stale: bool,
) -> Ask[Claims]:
    body = {"n": n, "lease": lease, "order": order, "filter": where, "drop_stale": drop_stale}
    return Ask(Claims, "POST", "/trajectories/claim", body=body)


def acknowledge(receipts: Sequence[str]) -> Ask[ClaimsChanged]:
    return _change("ack", receipts)


def release(receipts: Sequence[str]) -> Ask[ClaimsChanged]:
    return _change("release", receipts)


def extend(receipts: Sequence[str], lease: float | None) -> Ask[ClaimsChanged]:
    return _change("extend", receipts, lease=lease)


def _change(what: str, receipts: Sequence[str], **more: Any) -> Ask[ClaimsChanged]:
    body = {"receipts": list(receipts), **more}
    return Ask(ClaimsChanged, "POST", f"/trajectories/{what}", body=body)


def check(changed: ClaimsChanged) -> None:
    """Raise GatewayClientError if a claim could not be acknowledged."""
    if changed.failed:
        first, count = changed.failed[0], len(changed.failed) + len(changed.successful)
        raise GatewayClientError(
            f"{len(changed.failed)} of {count} claims could not be acknowledged, so others may"
            f" train on their tokens: {first.code}: {first.message}",
            code=first.code,
        )
