"""How calls for items end: faults 5, 6, 7 and 10 of section 3 of the contract, row by row."""

from pathlib import Path

import msgspec
import pytest
from gateway_plugins.batch.queue import changes, reading
from gateway_plugins.batch.queue.holders import LEFT
from gateway_plugins.batch.queue.items import CANCELED, COMPLETED, ERROR, QUEUED, RUNNING, ItemError
from support.records.a_queue import LEASE, AQueue, Process, check_counts

FAILED = msgspec.json.encode(ItemError("500", "no")).decode()
LOST = ItemError("not_stored", "it is lost")


@pytest.fixture
def queue(tmp_path: Path) -> AQueue:
    return AQueue(tmp_path / "gateway.db")


def look(queue: AQueue, process: Process, seconds: float) -> int:
    process.holder.ensure(queue.db)
    return process.others.take_over(queue.db, process.holder.number, seconds)


def test_response_of_an_item_is_stored_once(queue: AQueue) -> None:
    process = queue.process()
    [item_id] = queue.submit()
    [item] = queue.claim(process)
    assert queue.settle(process, item, answer=b"first", status=200)
    assert not queue.settle(process, item, answer=b"second")
    assert not queue.settle(process, item, QUEUED)
    assert reading.answer_of(queue.db, item.number) == b"first"
    assert (queue.item(item_id).state, queue.item(item_id).status) == (COMPLETED, 200)
    check_counts(queue.db)


def test_fault_3_10_item_canceled_before_its_response_was_stored_stays_canceled(
    queue: AQueue,
) -> None:
    process = queue.process()
    [item_id] = queue.submit()
    [item] = queue.claim(process)
    assert changes.cancel(queue.db, item_id, queue.end()) is not None
    assert not queue.settle(process, item)
    assert queue.item(item_id).state == CANCELED
    assert reading.answer_of(queue.db, item.number) is None
    assert queue.claim(process) == [], "it is not run again"
    assert changes.cancel(queue.db, item_id, queue.end()) is None
    check_counts(queue.db)


def test_fault_3_6_items_of_a_dead_process_are_queued_again_at_the_first_look(
    queue: AQueue,
) -> None:
    dead, other = queue.process(), queue.process()
    ids = queue.submit(items=700)
    while queue.claim(dead):
        pass
    assert look(queue, other, 0.0) == 0
    dead.die()
    assert look(queue, other, 1.0) == 500, "so many at once"
    assert look(queue, other, 1.0) == 200
    assert look(queue, other, 1.0) == 0
    assert queue.states(ids) == {QUEUED: 700}
    assert queue.item(ids[0]).last_error == LEFT
    assert list(queue.db.select("SELECT number FROM batch_holders")) == [(other.holder.number,)]
    assert locks(queue) == [lock(other)]
    check_counts(queue.db)


def lock(process: Process) -> Path:
    assert process.holder._lock is not None
    return process.holder._lock.path


def locks(queue: AQueue) -> list[Path]:
    assert queue.locks is not None
    return sorted(queue.locks.parent.iterdir())


def test_fault_3_7_items_of_a_stopped_process_are_queued_again_after_the_lease(
    queue: AQueue,
) -> None:
    stopped, other = queue.process(), queue.process()
    [item_id] = queue.submit()
    [item] = queue.claim(stopped)
    passed = 0.0
    while not look(queue, other, passed):
        passed += 2.0
        assert passed <= LEASE
    assert passed == LEASE
    [again] = queue.claim(other)
    assert (again.id, again.attempt) == (item_id, 2)
    look(queue, other, passed)
    assert not queue.settle(stopped, item, answer=b"late"), "it goes on, and is too late"
    assert not stopped.holder.beat(queue.db)
    assert not look(queue, other, passed + 1), "it has another number and another lock"
    assert locks(queue) == sorted([lock(other), lock(stopped)])
    assert not look(queue, stopped, 0.0)
    assert queue.settle(other, again, answer=b"in time")
    assert reading.answer_of(queue.db, item.number) == b"in time"
    check_counts(queue.db)


def test_lease_does_not_end_for_a_process_that_beats(queue: AQueue) -> None:
    one, other = queue.process(), queue.process()
    queue.submit()
    queue.claim(one)
    for minute in range(20):
        assert one.holder.beat(queue.db)
        assert not look(queue, other, minute * 60.0 - 1)
        assert not look(queue, other, minute * 60.0 + 50)


def test_lease_does_not_end_while_all_processes_are_paused(queue: AQueue) -> None:
    """As those of a container are."""
    one, other = queue.process(), queue.process()
    queue.submit()
    queue.claim(one)
    for seconds in (0.0, 2.0, 86_400.0):
        assert not look(queue, other, seconds)
    assert one.holder.beat(queue.db)
    assert not look(queue, other, 86_402.0)


def test_items_that_run_in_an_unknown_process_are_queued_again(queue: AQueue) -> None:
    """As after somebody has edited the file."""
    process, other = queue.process(), queue.process()
    queue.submit(items=2)
    queue.claim(process)
    process.holder.end(queue.db)
    assert look(queue, other, 0.0) == 2
    check_counts(queue.db)


def test_item_given_up_counts_an_attempt_and_ends_after_the_last(queue: AQueue) -> None:
    process = queue.process()
    [item_id] = queue.submit()
    for _ in range(2):
        [item] = queue.claim(process)
        assert changes.give_up(queue.db, [item.running], LOST, 3, queue.end())
        assert queue.item(item_id).state == QUEUED
        assert not changes.give_up(queue.db, [item.running], LOST, 3, queue.end())
    [item] = queue.claim(process)
    assert changes.give_up(queue.db, [item.running], LOST, 3, queue.end())
    assert (queue.item(item_id).state, queue.item(item_id).last_error) == (ERROR, LOST)
    check_counts(queue.db)


def test_item_that_was_given_up_may_not_be_ended(queue: AQueue) -> None:
    process = queue.process()
    queue.submit()
    [item] = queue.claim(process)
    changes.give_up(queue.db, [item.running], LOST, 3, queue.end())
    assert not queue.settle(process, item)
    [again] = queue.claim(process)
    assert not queue.settle(process, item), "not by the call before"
    assert queue.settle(process, again)


def test_item_queued_again_by_an_operator_forgets_how_it_ended(queue: AQueue) -> None:
    process = queue.process()
    [item_id] = queue.submit(deadline=10.0)
    [item] = queue.claim(process)
    queue.settle(process, item, ERROR, b"a refusal", status=400, error=FAILED, expires=queue.now)
    assert changes.requeue(queue.db, item_id, queue.now + 50) is not None
    found = queue.item(item_id)
    assert (found.state, found.status, found.expires, found.charged) == (QUEUED, None, None, 0)
    assert found.deadline == queue.now + 50
    assert reading.answer_of(queue.db, item.number) is None
    assert changes.requeue(queue.db, item_id, 0.0) is None, "it is queued already"
    assert not changes.delete_expired(queue.db, queue.now)
    queue.now += 50
    [ended] = changes.expire(queue.db, queue.end())
    assert queue.item(item_id).status is None
    assert ended.state == QUEUED
    check_counts(queue.db)


def test_completed_items_are_not_queued_again(queue: AQueue) -> None:
    process = queue.process()
    [item_id] = queue.submit()
    [item] = queue.claim(process)
    queue.settle(process, item)
    assert changes.requeue(queue.db, item_id, 1e9) is None
    assert queue.item(item_id).state == COMPLETED


def test_items_are_deleted_in_any_state(queue: AQueue) -> None:
    process = queue.process()
    ids = queue.submit(items=3)
    [item] = queue.claim(process, 1)
    queue.settle(process, item)
    queue.claim(process, 1)
    items = [queue.item(one) for one in ids]
    found = [changes.Found(one.number, one.id, 1, one.state, None, one.path, None) for one in items]
    assert [one.state for one in found] == [COMPLETED, RUNNING, QUEUED]
    changes.delete(queue.db, found)
    check_counts(queue.db)
    assert list(queue.db.select("SELECT * FROM batch_lanes")) == []


def test_ends_of_many_calls_of_one_transaction_are_stored(queue: AQueue) -> None:
    process = queue.process()
    ids = queue.submit(items=64)
    for number, item in enumerate(queue.claim(process)):
        state = (COMPLETED, ERROR, QUEUED)[number % 3]
        assert queue.settle(process, item, state, due=queue.now + 1)
    assert queue.states(ids) == {COMPLETED: 22, ERROR: 21, QUEUED: 21}
    check_counts(queue.db)


def test_results_that_are_kept_no_longer_are_deleted_in_slices(queue: AQueue) -> None:
    process = queue.process()
    queue.submit(items=60)
    for item in queue.claim(process):
        queue.settle(process, item, expires=queue.now + 100)
    queue.submit()
    queue.now += 100
    assert [changes.delete_expired(queue.db, queue.now, 25) for _ in range(4)] == [25, 25, 10, 0]
    check_counts(queue.db)
    assert RUNNING not in queue.states(queue.submit())


def test_fault_3_12_queued_items_of_a_model_that_cannot_be_loaded_are_dropped_with_the_reason(
    queue: AQueue,
) -> None:
    process = queue.process()
    running, *queued = queue.submit(model="gone", items=4)
    queue.claim(process, 1)
    queued += queue.submit(key="bob", model="gone", priority=3, items=2)
    [other] = queue.submit(model="m")
    since, dropped = queue.now, []
    queue.now += 1
    [later] = queue.submit(model="gone")
    while found := changes.drop(queue.db, "gone", "the hub refuses it", since, queue.end(), 2):
        dropped += found
    assert sorted(one.id for one in dropped) == sorted(queued)
    for item in map(queue.item, queued):
        assert item.state == ERROR
        assert item.error == '{"code":"model_load_failed","message":"the hub refuses it"}'
    assert (queue.item(running).state, queue.item(other).state) == (RUNNING, QUEUED)
    assert queue.item(later).state == QUEUED
    check_counts(queue.db)
