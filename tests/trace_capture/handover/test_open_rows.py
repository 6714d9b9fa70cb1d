"""Open trajectories of a session that grows, row by row: what each keeps, and which are dropped."""

from collections.abc import Iterator
from typing import Any

import pytest
from gateway_plugins.trace_capture.handover import claiming, settling, turns, unfolding
from gateway_plugins.trace_capture.handover.claiming import Claim, Room, drop_stale, lease
from gateway_plugins.trace_capture.handover.filters import ClaimFilter, Wanted
from gateway_plugins.trace_capture.handover.intake import take_in
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from support.records.databases import memory_database
from support.records.trace_records import Item, Turn, record_of, sink_of_records

ANY = ClaimFilter(idle_seconds=0, allow_incomplete=True)


class Queue:
    """A file with calls, whose sessions are read after each of them."""

    def __init__(self) -> None:
        self.db: Any = memory_database([MIGRATIONS])
        self._sink = sink_of_records()

    def wanted(self, **fields: Any) -> Wanted:
        return Wanted(ANY, None, fields.pop("min_version", None), 100.0, **fields)

    def call(self, prompt: list[int], sampled: list[int], session: str = "a", **head: Any) -> None:
        record = record_of(Turn(prompt, [sampled], session_id=session))
        for name, value in head.items():
            setattr(record.head, name, value)
        item: Any = Item(record)
        self._sink.write(self.db, [self._sink.prepare(self.db, item)])
        take_in(self.db)
        for one in unfolding.choose(self.db, self.wanted(), 9, "me"):
            unfolding.note(self.db, one, "me", unfolding.unfold(self.db, one))

    def lease(self, count: int = 9) -> list[Claim]:
        return lease(self.db, self.wanted(), Room(count, []), 200.0)

    def release(self, claims: list[Claim]) -> None:
        settling.Settling(self.db, None, 100.0).release([claim.receipt for claim in claims])

    def deliveries(self) -> list[int]:
        return sorted(row.deliveries for row in turns.open_rows(self.db, "a"))


@pytest.fixture
def queue() -> Iterator[Queue]:
    made = Queue()
    yield made
    made.db.close()


def test_deliveries_stay_counted_when_another_branch_grows(queue: Queue) -> None:
    queue.call([9], [1])
    queue.release(queue.lease())
    queue.release(queue.lease())
    assert queue.deliveries() == [2]
    queue.call([8], [1])
    assert queue.deliveries() == [0, 2]


def test_deliveries_stay_counted_when_the_branch_itself_grows(queue: Queue) -> None:
    queue.call([9], [1])
    queue.release(queue.lease())
    queue.call([9, 1, 5], [2])
    assert queue.deliveries() == [1]


def test_deliveries_of_what_comes_back_go_to_what_grew_out_of_it(queue: Queue) -> None:
    queue.call([9], [1])
    claims = queue.lease()
    queue.call([9, 1, 5], [2])
    assert queue.deliveries() == [0]
    queue.release(claims)
    assert queue.deliveries() == [1]


def test_stale_trajectories_behind_many_that_others_hold_are_dropped(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "MAX_DROPPED", 2)
    for session in "abc":
        queue.call([9], [1], session, engine_version=4)
    assert len(queue.lease()) == 3
    for session in "abc":  # its old turn is held, and the new one is no reason to drop it
        queue.call([9, 1, 5], [2], session, engine_version=7)
    for session in "def":
        queue.call([9], [1], session, engine_version=3)
    wanted = queue.wanted(min_version=5)
    assert [drop_stale(queue.db, wanted) for _ in range(3)] == [2, 1, 0]
    left = queue.db.select("SELECT session_id FROM handover_open ORDER BY session_id")
    assert [session for (session,) in left] == ["a", "b", "c"]
