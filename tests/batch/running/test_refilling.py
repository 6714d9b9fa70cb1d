"""Places of items that end go to others in the transaction of the ends."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from gateway_plugins.batch.queue.items import COMPLETED, Claimed, Ended
from gateway_plugins.batch.queue.settling import Settling
from gateway_plugins.batch.running.refilling import Refilling
from support.plugins.recording_plugin import until
from support.records.a_queue import AQueue, Process, check_counts
from support.records.queued_items import OWNER, engine_of, new_item
from support.records.run_items import count, ended, queue, quick, run
from support.workers.failing_on_demand import Moody
from support.workers.failing_worker import OK, refusal

from gateway import StorageUnavailable
from gateway.config import Worker
from gateway.testing import GatewayFor, ScriptedConnection, ScriptedWorker


class Refilled:
    """A queue whose ends claim others; `begun` has what the event loop is told."""

    def __init__(self) -> None:
        self.queue = AQueue()
        self.queue.now = time.time()
        self.process: Process = self.queue.process()
        self.begun: list[tuple[Sequence[Claimed], Sequence[int]]] = []
        claiming = self.process.claiming
        self.refilling = Refilling(claiming, lambda *told: self.begun.append(told))
        self.settling = Settling(lambda _: None, self.refilling)

    def end_of(self, item: Claimed, *, refills: bool = True) -> Ended:
        models = frozenset((item.model,)) if refills else None
        return Ended(item=item, state=COMPLETED, at=self.queue.now, answer=b"{}", refills=models)


async def test_the_end_of_an_item_claims_another_of_its_model() -> None:
    world = Refilled()
    others, own = (world.queue.submit(model=model, items=3) for model in ("other", "m"))
    running = world.queue.claim(world.process, {"m": 2, "other": 0})
    ends = [world.end_of(running[0]), world.end_of(running[1], refills=False)]
    rows = [world.settling.prepare(world.queue.db, end) for end in ends]
    world.settling.write(world.queue.db, rows)
    world.settling.written(rows)
    await until(lambda: len(world.begun) == 1)
    [(claimed, numbers)] = world.begun
    assert [item.id for item in claimed] == own[2:]
    assert numbers == [running[0].number]
    assert world.queue.states(own) == {COMPLETED: 2, 1: 1}
    assert world.queue.states(others) == {0: 3}
    check_counts(world.queue.db)


async def test_a_transaction_that_fails_claims_nothing_until_it_is_tried_again() -> None:
    world = Refilled()
    ids, db = world.queue.submit(items=3), world.queue.db
    [item] = world.queue.claim(world.process, most=1)
    rows = [world.settling.prepare(db, world.end_of(item))]
    db.execute("BEGIN IMMEDIATE")
    world.settling.write(db, rows)
    db.execute("ROLLBACK")
    assert world.queue.states(ids) == {0: 2, 1: 1}
    world.settling.write(db, rows)
    world.settling.written(rows)
    await until(lambda: len(world.begun) == 1)
    [(claimed, _)] = world.begun
    assert [one.id for one in claimed] == ids[1:2]
    assert world.queue.states(ids) == {0: 1, 1: 1, COMPLETED: 1}


async def test_an_end_that_is_lost_gives_its_place_back() -> None:
    world = Refilled()
    world.queue.submit(items=2)
    [item] = world.queue.claim(world.process, most=1)
    world.settling.lost(world.end_of(item), StorageUnavailable("the disk is full"))
    await until(lambda: len(world.begun) == 1)
    assert world.begun == [((), [item.number])]


async def test_items_of_a_lane_that_rests_are_not_claimed_by_ends() -> None:
    world = Refilled()
    world.queue.submit(items=2)
    [item] = world.queue.claim(world.process, most=1)
    world.refilling.lanes = {item.lane: 0}
    rows = [world.settling.prepare(world.queue.db, world.end_of(item))]
    world.settling.write(world.queue.db, rows)
    world.settling.written(rows)
    await until(lambda: len(world.begun) == 1)
    assert world.begun == [([], [item.number])]


async def test_places_are_all_free_once_the_queue_is_empty(gateway_for: GatewayFor) -> None:
    answers = [OK, refusal(500), *[OK] * 5, refusal(503), OK]
    count = 0

    async def script(connection: ScriptedConnection) -> None:
        nonlocal count
        while True:
            await connection.read_request()
            count += 1
            await connection.write(answers[count % len(answers)])

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(quick(max_attempts=50), workers=[worker.url])
        await run(live, *[new_item() for _ in range(20)])
        runner = engine_of(live).runner
        await until(lambda: not len(runner))
        await until(lambda: not runner.pace.running)
        assert not runner.running()


async def test_no_more_items_run_than_may_at_a_time(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        live = await gateway_for(quick(max_concurrent=3), workers=[worker.url])
        worker.gate.clear()
        ids = await queue(live, *[new_item() for _ in range(40)])
        await until(lambda: worker.held == 3)
        for _ in range(10):
            worker.gate.set()
            await asyncio.sleep(0.01)
            worker.gate.clear()
        worker.gate.set()
        items = await ended(live, ids)
        assert {item.state for item in items} == {COMPLETED}
        assert worker.most == 3


@pytest.mark.parametrize("mixed", [False, True])
async def test_fault_3_4_items_of_one_model_do_not_keep_all_places(
    gateway_for: GatewayFor, mixed: bool
) -> None:
    """Whether the models of the worker are known, beside another worker, or are not."""
    async with Moody() as worker, Moody() as other:
        workers = [Worker(url=worker.url, models=("A", "B") if mixed else ())]
        if mixed:
            workers.append(Worker(url=other.url, models=("C",)))
        live = await gateway_for(quick(max_concurrent=3), workers=workers)
        worker.gate.clear()
        ids = await queue(live, *[new_item(model="A") for _ in range(300)])
        await until(lambda: worker.held == 3)
        late = await queue(live, *[new_item(model="B") for _ in range(20)], owner=OWNER)
        worker.gate.set()
        await ended(live, late)
        assert await count(live, "batch_items", f"state = {COMPLETED}") < 150
        assert {item.state for item in await ended(live, ids)} == {COMPLETED}
