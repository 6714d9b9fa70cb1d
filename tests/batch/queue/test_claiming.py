"""Which items are claimed: fault 4 of section 3 of the contract, and what fits (fault 3)."""

from pathlib import Path

import msgspec
import pytest
from gateway_plugins.batch.queue import changes, submission
from gateway_plugins.batch.queue.items import QUEUED, Claimed
from gateway_plugins.batch.queue.lanes import MAX_BUSY
from support.records.a_queue import LEASE, ORDER, AQueue, Process, check_counts

from gateway import Principal, TooManyRequests


@pytest.fixture
def queue() -> AQueue:
    return AQueue()


@pytest.fixture
def process(queue: AQueue) -> Process:
    return queue.process()


def models(queue: AQueue, process: Process, room: dict[str, int] | int, most: int) -> list[str]:
    return [item.model for item in queue.claim(process, room, most)]


def owner_of(item: Claimed) -> str:
    assert item.principal is not None
    return msgspec.json.decode(item.principal, type=Principal).id


def test_fault_3_3_a_claim_takes_what_fits_and_leaves_the_rest_queued(
    queue: AQueue, process: Process
) -> None:
    queue.submit(items=300)
    [later] = queue.submit("bob")
    assert len(queue.claim(process, {"m": 4})) == 4
    assert queue.db.select("SELECT queued, running FROM batch_lanes").__next__() == (297, 3)
    assert later in [item.id for item in process.running], "and a later key has its turn"
    check_counts(queue.db)


def test_fault_3_4_many_items_of_one_model_do_not_hold_up_another(
    queue: AQueue, process: Process
) -> None:
    queue.submit(model="A", items=10_000)
    queue.submit(model="B")
    assert models(queue, process, {"A": 0, "B": 3}, 64) == ["B"]
    assert models(queue, process, {"A": 64, "B": 3}, 64) == ["A"] * 64


def test_fault_3_4_many_items_of_one_model_let_another_in_within_max_wait(
    queue: AQueue, process: Process
) -> None:
    """Where both run on the same workers, even items of the lowest priority."""
    queue.submit(model="A", priority=100, items=10_000)
    queue.submit(model="B", priority=-100)
    begun = queue.now
    while "B" not in models(queue, process, 1, 1):
        queue.now += 60
    assert queue.now - begun == ORDER.max_wait


def test_items_of_one_key_do_not_delay_those_of_another(queue: AQueue, process: Process) -> None:
    queue.submit("X", items=10_000)
    for _ in range(100):  # for hours
        queue.now += 60
        queue.claim(process, 1, 1)
    queue.submit("Y")
    [found] = queue.claim(process, 1, 1)
    assert owner_of(found) == "Y"


def test_items_in_flight_of_a_key_count_whatever_their_model(
    queue: AQueue, process: Process
) -> None:
    """Also those of models of which no more are queued."""
    queue.submit("X", model="A", items=3)
    queue.claim(process)
    queue.now += 1
    queue.submit("X", model="B", items=5)
    queue.now += 1
    queue.submit("Y", model="B", items=5)
    assert [owner_of(one) for one in queue.claim(process, 1_000, 6)] == ["Y"] * 3 + ["X", "Y", "X"]


def test_keys_take_turns(queue: AQueue, process: Process) -> None:
    """Also if what each had in flight is over by the next claim."""
    queue.submit("X", items=50)
    queue.now += 1
    queue.submit("Y", items=50)
    owners = ""
    for _ in range(6):
        queue.now += 1
        [item] = queue.claim(process, 1, 1)
        queue.settle(process, item)
        owners += owner_of(item)
    assert owners == "XYXYXY"


def test_lane_that_has_waited_long_is_served_once_and_waits_again(
    queue: AQueue, process: Process
) -> None:
    """Its key has its turn no sooner for it."""
    queue.submit("X", priority=0, model="low", items=50)
    queue.now += ORDER.max_wait
    queue.submit("Y", priority=100, model="high", items=50)
    assert models(queue, process, 9, 6) == ["low", *["high"] * 5]


def test_items_of_one_key_rise_by_one_each_age_step_that_they_wait(
    queue: AQueue, process: Process
) -> None:
    queue.submit(priority=0, model="low", items=3)
    queue.now += 2 * ORDER.age_step
    queue.submit(priority=2, model="high", items=3)
    queue.submit(priority=3, model="higher")
    assert models(queue, process, 9, 5) == ["higher", *["low"] * 3, "high"]


def test_old_items_of_a_low_priority_take_turns_with_another_key_s_of_a_high_one(
    queue: AQueue, process: Process
) -> None:
    queue.submit("X", priority=0, model="low", items=50)
    queue.claim(process, 4, 4)
    queue.now += 2 * ORDER.age_step
    queue.submit("Y", priority=2, model="high", items=50)
    assert models(queue, process, 99, 8) == [*["high"] * 4, "low", "high", "low", "high"]


def test_lane_that_was_begun_before_the_clock_was_set_back_goes_on_rising(
    queue: AQueue, process: Process
) -> None:
    queue.submit("X", priority=0, model="low")
    queue.claim(process, 1, 1)
    queue.now -= 86_400
    queue.submit("X", priority=0, model="low")
    queue.submit("Y", priority=1, model="high", items=50)
    queue.now += ORDER.max_wait
    assert models(queue, process, 9, 2) == ["high", "low"]


def test_items_of_a_higher_priority_come_first(queue: AQueue, process: Process) -> None:
    queue.submit(priority=0, model="low", items=2)
    queue.submit(priority=5, model="high", items=2)
    assert models(queue, process, 9, 3) == ["high", "high", "low"]


def test_items_of_a_lane_run_by_age(queue: AQueue, process: Process) -> None:
    ids = queue.submit(items=5)
    queue.now += 1
    ids += queue.submit(items=5)
    assert [item.id for item in queue.claim(process, 4) + queue.claim(process, 6)] == ids


def test_items_to_be_tried_again_wait_until_they_are_due_and_come_first(
    queue: AQueue, process: Process
) -> None:
    first, second, third = queue.submit(items=3)
    [item] = queue.claim(process, 1)
    queue.settle(process, item, QUEUED, None, due=queue.now + 5)
    claims = process.claiming.claim(queue.db, {}, 1, queue.now, 1)
    assert [one.id for one in claims.items] == [second]
    assert claims.next_due == queue.now + 5
    queue.now += 5
    assert [one.id for one in queue.claim(process)] == [first, third]


def test_items_whose_deadline_has_passed_are_not_claimed(queue: AQueue, process: Process) -> None:
    queue.submit(deadline=10, items=200)
    [fresh] = queue.submit()
    queue.now += 10
    queue.claim(process, 64)
    assert process.running == [], "not even looked for behind so many"
    while changes.expire(queue.db, queue.end()):
        pass
    assert [item.id for item in queue.claim(process, 64)] == [fresh]


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_clock_that_jumps_holds_nothing_up(queue: AQueue, process: Process, jump: float) -> None:
    queue.submit("X", items=100)
    queue.claim(process, 10)
    queue.now += jump
    queue.submit("Y", items=10)
    assert len(queue.claim(process, 8)) == 8
    assert len(queue.claim(process, 100, 100)) == 92
    queue.now -= jump
    queue.submit("X", priority=-1)
    assert len(queue.claim(process)) == 1


def test_keys_may_not_make_up_lanes_without_end(queue: AQueue, process: Process) -> None:
    for number in range(MAX_BUSY):
        queue.submit(model=f"m{number}")
    with pytest.raises(TooManyRequests, match=f"{MAX_BUSY} models and priorities"):
        queue.submit(model="one more")
    check_counts(queue.db)
    queue.submit("bob", model="one more")
    assert len(queue.claim(process, 1, 10)) == 10


def test_queue_that_is_full_takes_none_of_the_items(queue: AQueue) -> None:
    queue.submit("X", items=5)
    for key, room in (("Y", submission.Room(7, 100)), ("X", submission.Room(100, 7))):
        with pytest.raises(TooManyRequests, match="max_queued"):
            queue.submit(key, items=3, room=room)
    check_counts(queue.db)
    queue.submit("Y", items=2, room=submission.Room(7, 7))


def test_lanes_go_with_their_last_item(queue: AQueue, process: Process) -> None:
    queue.submit(model="passing", items=3)
    for item in queue.claim(process):
        queue.settle(process, item, expires=queue.now + 1)
    queue.now += 1
    assert changes.delete_expired(queue.db, queue.now) == 3
    assert list(queue.db.select("SELECT * FROM batch_lanes")) == []


def test_process_that_is_not_registered_any_more_registers_as_it_claims(tmp_path: Path) -> None:
    """So there is never an item that runs in a process of which no other one knows."""
    queue = AQueue(tmp_path / "x.db")
    one, other = queue.process(), queue.process()
    queue.submit(items=2)
    queue.claim(one, 1)
    other.holder.ensure(queue.db)
    for seconds in range(0, int(LEASE) + 30, 10):  # `one` is stopped
        other.others.take_over(queue.db, other.holder.number, float(seconds))
    assert queue.db.select("SELECT count(*) FROM batch_holders").__next__() == (1,)
    queue.claim(one, 1)
    assert not other.others.take_over(queue.db, other.holder.number, 100.0)
    assert [queue.item(item.id).state for item in one.running] == [1, 1]
