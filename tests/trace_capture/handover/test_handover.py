"""Claims in any order of events, beside a model; and what they cost."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from gateway_plugins.trace_capture.handover import settling, turns, unfolding
from gateway_plugins.trace_capture.handover.claiming import (
    Claim,
    Room,
    drop_stale,
    first_open,
    lease,
)
from gateway_plugins.trace_capture.handover.filters import ClaimFilter, Order, Wanted
from gateway_plugins.trace_capture.handover.intake import take_in
from gateway_plugins.trace_capture.handover.reading import ClaimedTrajectory, read
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.records.databases import memory_database
from support.records.trace_records import Item, Turn, record_of, sink_of_records

from gateway import Reason

ANY = ClaimFilter(idle_seconds=0, allow_incomplete=True)
LEASE = 10.0
SESSIONS = ("a", "b")

Key = tuple[str, int]


class Machine(RuleBasedStateMachine):
    """Calls, trainers and time, in any order.

    `taught` has the turns of each claim that was handed out, `acked` those that count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.db = memory_database([MIGRATIONS])
        self.sink: Any = sink_of_records()
        self.now = 1_000.0
        self.taught: dict[str, tuple[str, set[Key]]] = {}
        self.acked: set[str] = set()
        self.released: set[str] = set()
        self.ends: dict[str, float] = {}
        self.sequences: dict[str, list[list[int]]] = {}

    def teardown(self) -> None:
        self.db.close()

    def wanted(self, **fields: Any) -> Wanted:
        filter_ = msgspec.structs.replace(ANY, **fields)
        return Wanted(filter_, None, filter_.min_weight_version, self.now)

    @rule(
        session=st.sampled_from(SESSIONS),
        origin=st.integers(0, 20),
        sampled=st.lists(
            st.lists(st.integers(0, 2), min_size=1, max_size=2), min_size=1, max_size=2
        ),
        version=st.sampled_from([None, 1, "2", 3]),
        good=st.booleans(),
    )
    def call(
        self, session: str, origin: int, sampled: list[list[int]], version: object, *, good: bool
    ) -> None:
        before = self.sequences.setdefault(session, [])
        prompt = [*(before[origin % len(before)] if before and origin else []), 9]
        record = record_of(Turn(prompt, sampled, session_id=session))
        record.timestamp = self.now
        record.head.engine_version = version  # type: ignore[assignment]
        reasons: list[Reason] = [] if good else ["unfinished"]
        record.head.reasons, record.head.choice_reasons = reasons, [reasons for _ in sampled]
        self.sink.write(self.db, [self.sink.prepare(self.db, Item(record))])
        before += [prompt + ids for ids in sampled]

    @rule(session=st.sampled_from(SESSIONS))
    def delete(self, session: str) -> None:
        queries.delete_sessions(self.db, [session])
        self.sink.invalidate_cache()
        self.sequences.pop(session, None)
        gone = [receipt for receipt, (of, _) in self.taught.items() if of == session]
        for receipt in gone:
            del self.taught[receipt]
            self.acked.discard(receipt)
            self.released.discard(receipt)

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def unfold(self) -> None:
        while take_in(self.db):
            pass
        for one in unfolding.choose(self.db, self.wanted(), 9, "me"):
            unfolding.note(self.db, one, "me", unfolding.unfold(self.db, one))
        there = "SELECT session_id, max(number) FROM traces GROUP BY session_id"
        known = "SELECT session_id, number FROM handover_sessions WHERE grown = 0"
        assert dict(self.db.select(there)) == dict(self.db.select(known))

    @rule(count=st.integers(1, 4), complete=st.booleans(), version=st.sampled_from([None, 2]))
    def claim(self, count: int, version: int | None, *, complete: bool) -> None:
        wanted = self.wanted(allow_incomplete=not complete, min_weight_version=version)
        settling.expire(self.db, self.now)
        self.unfold()
        claims = lease(self.db, wanted, Room(count, []), self.now + LEASE)
        built = read(self.db, claims)
        assert built.left == []
        for claim, data in zip(claims, built.claims, strict=True):
            one = msgspec.json.decode(data, type=ClaimedTrajectory)
            self.check(claim, one, complete=complete, version=version)
            keys = {turn.key for turn in claim.taught}
            self.taught[claim.receipt] = claim.row.session_id, keys
            self.ends[claim.receipt] = claim.until

    def check(
        self, claim: Claim, one: ClaimedTrajectory, *, complete: bool, version: int | None
    ) -> None:
        keys = {turn.key for turn in claim.taught}
        assert not keys & self.held(), "nobody else has them"
        assert keys <= set(zip(one.trace_ids, one.choices, strict=True))
        assert sum(one.loss_mask) > 0
        assert one.verdict == "COMPLETE" or not complete
        versions = {v for v, mask in zip(one.weight_versions, one.loss_mask, strict=True) if mask}
        assert version is None or all(int(v) >= version for v in versions if v is not None)
        assert version is None or None not in versions

    def held(self) -> set[Key]:
        """The turns that are acknowledged, or leased at this time."""
        holding = [
            one
            for one in self.taught
            if one in self.acked or (one not in self.released and self.ends[one] > self.now)
        ]
        return {key for one in holding for key in self.taught[one][1]}

    @rule(data=st.data(), change=st.sampled_from(["acknowledge", "release", "extend"]))
    @precondition(lambda self: self.taught)
    def settle(self, data: st.DataObject, change: str) -> None:
        receipt = data.draw(st.sampled_from(list(self.taught)))
        others = {
            key
            for one in self.taught
            if one != receipt
            and (one in self.acked or (one not in self.released and self.state(one) == 0))
            for key in self.taught[one][1]
        } | self.dropped()
        expected = None
        if receipt in self.released:
            expected = None if change == "release" else "claim_released"
        elif receipt in self.acked:
            expected = None if change == "acknowledge" else "claim_acknowledged"
        elif self.taught[receipt][1] & others and change != "release":
            expected = "claim_taken"
        was = self.state(receipt)
        one = settling.Settling(self.db, None, self.now)
        more = (self.now + LEASE,) if change == "extend" else ()
        done = getattr(one, change)([receipt], *more)
        assert [failure.code for failure in done.failed] == ([expected] if expected else [])
        if expected is None:
            if change == "acknowledge":
                self.acked.add(receipt)
            elif change == "extend":
                self.ends[receipt] = self.now + LEASE
            elif was == turns.LEASED:
                self.released.add(receipt)

    def dropped(self) -> set[Key]:
        rows = self.db.select("SELECT taught FROM handover_claims WHERE state = 2")
        return {turn.key for (packed,) in rows for turn in turns.read_turns(packed)}

    def state(self, receipt: str) -> int:
        query = "SELECT state FROM handover_claims WHERE receipt = :receipt"
        [(state,)] = self.db.select(query, {"receipt": receipt})
        return int(state)

    @rule()
    def drop(self) -> None:
        self.unfold()
        drop_stale(self.db, self.wanted(min_weight_version=2))

    @invariant()
    def no_turn_counts_twice(self) -> None:
        counted = Counter(key for one in self.acked for key in self.taught[one][1])
        assert all(count == 1 for count in counted.values())

    @invariant()
    def no_turn_is_lost(self) -> None:
        for session in SESSIONS:
            grown = "SELECT grown, number FROM handover_sessions WHERE session_id = :session_id"
            rows = list(self.db.select(grown, {"session_id": session}))
            if not rows or rows[0][0]:
                continue
            there = {
                (row.trace_id, choice)
                for row in queries.rows(self.db, queries.TraceFilter(session_ids=(session,)))
                if row.number <= rows[0][1]
                for choice in range(self.choices(row.trace_id))
            }
            opened = {
                turn.key
                for row in turns.open_rows(self.db, session)
                for turn in turns.read_turns(row.turns)
            }
            assert opened | turns.held(self.db, session) == there
            assert not opened & turns.settled(self.db, session)

    def choices(self, trace_id: str) -> int:
        trace = queries.get(self.db, trace_id)
        assert trace is not None
        return len(trace.choices)


TestMachine = Machine.TestCase
TestMachine.settings = settings(stateful_step_count=25)


class Planned:
    """A database that tells how it would run each query, and finds nothing."""

    def __init__(self) -> None:
        self.plans: list[str] = []
        self._db = memory_database([MIGRATIONS])

    def select(self, sql: str, params: Any) -> Any:
        found = self._db.select(f"EXPLAIN QUERY PLAN {sql}", params)
        self.plans.append("; ".join(step for *_, step in found))
        return iter(())


@pytest.mark.parametrize("order", ["age", "version"])
@pytest.mark.parametrize("owner", [None, "a key"])
def test_claims_and_sessions_to_read_are_found_by_indexes(order: Order, owner: str | None) -> None:
    db: Any = Planned()
    for filter_ in (ANY, msgspec.structs.replace(ANY, since=1.0, model="m", min_reward=0.5)):
        for version in (None, 7):
            wanted = Wanted(filter_, owner, version, 100.0, order, 1.0, 1.0)
            assert first_open(db, wanted) is None
            assert first_open(db, msgspec.structs.replace(wanted, open_from=None)) is None
            assert unfolding.first_grown(db, wanted) == (None, False)
            assert drop_stale(db, wanted) == 0
    found = [plan for plan in db.plans if "SCAN o" in plan or "SCAN h" in plan or "TEMP" in plan]
    assert found == []
    assert len(db.plans) > 20
