"""Acknowledges, releases and extends claims, and takes back those that have expired."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import msgspec

from gateway import Database
from gateway_plugins.trace_capture.handover.claiming import Claim
from gateway_plugins.trace_capture.handover.turns import (
    ACKNOWLEDGED,
    COLUMNS,
    DROPPED,
    EXPIRED,
    LEASED,
    RELEASED,
    UNREADABLE,
    Key,
    Open,
    forget_settled,
    give_back,
    held,
    read_turns,
)

Code = Literal["claim_unknown", "claim_taken", "claim_released", "claim_acknowledged"]

MESSAGES: dict[Code, str] = {
    "claim_unknown": "there is no such claim, or its session was deleted",
    "claim_taken": "the lease ended, and some of its tokens were claimed again, or dropped",
    "claim_released": "the claim was released",
    "claim_acknowledged": "the claim was acknowledged",
}

KEPT = 86_400.0
"""Seconds for which a claim that does not hold any more can still be asked for."""

SLICE = 500
"""Claims that are changed in one transaction."""

_CLAIM = f"""
SELECT state, taught, {COLUMNS} FROM handover_claims
WHERE receipt = :receipt AND (:owner IS NULL OR owner = :owner)
"""
_SET = "UPDATE handover_claims SET state = :state, until = :until WHERE receipt = :receipt"
_EXPIRED = f"""
SELECT receipt, {COLUMNS} FROM handover_claims
WHERE state = {LEASED} AND until <= :now ORDER BY until LIMIT :limit
"""
_UNDO = f"DELETE FROM handover_claims WHERE receipt = :receipt AND state = {LEASED}"
_SET_ASIDE = f"""
UPDATE handover_claims SET state = {UNREADABLE}, until = :until
WHERE receipt = :receipt AND state = {LEASED}
"""
_FORGET = f"""
DELETE FROM handover_claims WHERE receipt IN (
    SELECT receipt FROM handover_claims WHERE state > {DROPPED} AND until < :before LIMIT :limit
)
"""


class Failure(msgspec.Struct, frozen=True):
    """Why a claim could not be changed."""

    receipt: str
    code: Code
    message: str


class Settled(msgspec.Struct, frozen=True):
    """The claims that were changed, or had been before, and the others."""

    successful: list[str]
    failed: list[Failure]


class _Found(NamedTuple):
    """A claim that is to be changed."""

    receipt: str
    state: int
    taught: str
    row: Open


class Settling:
    """Changes the claims of one owner's sessions at `now` (Unix seconds); None: anybody's.

    `changed` counts them, without those that had been changed before.
    """

    def __init__(self, db: Database, owner: str | None, now: float) -> None:
        self.changed = 0
        self._db = db
        self._owner = owner
        self._now = now
        self._held: dict[str, set[Key]] = {}
        self._changed: defaultdict[str, list[Open]] = defaultdict(list)

    def acknowledge(self, receipts: Sequence[str]) -> Settled:
        """Note that they were trained on: their turns are never handed out again.

        A claim that has expired is acknowledged if nobody else has its turns.
        """
        done = self._each(receipts, self._acknowledge)
        for session_id in self._changed:
            forget_settled(self._db, session_id)
        return done

    def release(self, receipts: Sequence[str]) -> Settled:
        """Give trajectories back, to be handed out again."""
        done = self._each(receipts, self._release)
        for session_id, rows in self._changed.items():
            give_back(self._db, session_id, rows)
        return done

    def extend(self, receipts: Sequence[str], until: float) -> Settled:
        """Have the leases end at `until`, also expired ones whose turns nobody else has."""
        return self._each(receipts, lambda claim: self._extend(claim, until))

    def _each(self, receipts: Sequence[str], change: Callable[[_Found], Code | None]) -> Settled:
        done = Settled([], [])
        for receipt in dict.fromkeys(receipts):
            claim = self._find(receipt)
            code: Code | None = "claim_unknown" if claim is None else change(claim)
            if code is None:
                done.successful.append(receipt)
            else:
                done.failed.append(Failure(receipt, code, MESSAGES[code]))
        return done

    def _find(self, receipt: str) -> _Found | None:
        values = {"receipt": receipt, "owner": self._owner}
        for state, taught, *row in self._db.select(_CLAIM, values):
            return _Found(receipt, state, taught, Open(*row))
        return None

    def _acknowledge(self, claim: _Found) -> Code | None:
        if claim.state == ACKNOWLEDGED:
            return None
        code = self._why_not(claim)
        if code is None:
            self._hold(claim, ACKNOWLEDGED, self._now)
        return code

    def _release(self, claim: _Found) -> Code | None:
        if claim.state == ACKNOWLEDGED:
            return "claim_acknowledged"
        if claim.state == LEASED:
            self._set(claim, RELEASED, self._now)
            self._changed[claim.row.session_id].append(claim.row)
        return None

    def _extend(self, claim: _Found, until: float) -> Code | None:
        if claim.state == ACKNOWLEDGED:
            return "claim_acknowledged"
        code = self._why_not(claim)
        if code is None:
            self._hold(claim, LEASED, until)
        return code

    def _hold(self, claim: _Found, state: int, until: float) -> None:
        """Have the turns of a claim be its own, which may have expired."""
        self._set(claim, state, until)
        self._changed[claim.row.session_id].append(claim.row)
        if claim.state == EXPIRED:
            self._taken(claim.row.session_id).update(_keys(claim))

    def _taken(self, session_id: str) -> set[Key]:
        """Return the turns of the claims of a session that hold."""
        found = self._held.get(session_id)
        if found is None:
            found = self._held[session_id] = held(self._db, session_id)
        return found

    def _set(self, claim: _Found, state: int, until: float) -> None:
        self.changed += 1
        _set(self._db, claim.receipt, state, until)

    def _why_not(self, claim: _Found) -> Code | None:
        """Return why the claim's turns cannot be its own any more; None if they can."""
        if claim.state == RELEASED:
            return "claim_released"
        if claim.state == EXPIRED and not self._taken(claim.row.session_id).isdisjoint(
            _keys(claim)
        ):
            return "claim_taken"
        return None


def _keys(claim: _Found) -> list[Key]:
    return [turn.key for turn in read_turns(claim.taught)]


def expire(db: Database, now: float) -> int:
    """Open the trajectories again whose leases have ended by `now`; return how many, of a slice."""
    rows = list(db.select(_EXPIRED, {"now": now, "limit": SLICE}))
    for receipt, *_ in rows:
        _set(db, receipt, EXPIRED, now)
    _give_all_back(db, [Open(*values) for _, *values in rows])
    return len(rows)


def take_back(db: Database, claims: Sequence[Claim]) -> None:
    """Open the trajectories again whose claims reached nobody, as if they had never been leased."""
    rows = [
        claim.row._replace(deliveries=claim.row.deliveries - 1)
        for claim in claims
        if db.execute(_UNDO, {"receipt": claim.receipt})
    ]
    _give_all_back(db, rows)


def _give_all_back(db: Database, rows: Sequence[Open]) -> None:
    of_session: defaultdict[str, list[Open]] = defaultdict(list)
    for row in rows:
        of_session[row.session_id].append(row)
    for session_id, back in of_session.items():
        give_back(db, session_id, back)


def set_aside(db: Database, claims: Sequence[Claim], now: float) -> int:
    """Note that these cannot be read, so that nobody leases them again; return how many are left.

    Those of a session that was deleted meanwhile are gone.
    """
    return sum(db.execute(_SET_ASIDE, {"receipt": claim.receipt, "until": now}) for claim in claims)


def forget_old(db: Database, now: float) -> int:
    """Forget claims that do not hold for KEPT seconds; return how many, of a slice."""
    return db.execute(_FORGET, {"before": now - KEPT, "limit": SLICE})


def _set(db: Database, receipt: str, state: int, until: float) -> None:
    db.execute(_SET, {"receipt": receipt, "state": state, "until": until})
