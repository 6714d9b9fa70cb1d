"""The queue as other plugins see it: how much waits for each model, and models that have to go."""

import msgspec
from support.plugins.recording_plugin import until
from support.records.queued_items import engine_of, new_item
from support.records.run_items import ended, queue, quick
from support.workers.failing_on_demand import Moody

from gateway import NewWork, Principal, WorkerSettings, WorkQueue
from gateway.testing import GatewayFor, Live

BODY = msgspec.json.encode({"model": "sim", "prompt": "a", "max_tokens": 3})


def _queue(live: Live) -> WorkQueue:
    [hook] = live.gateway.hooks("work_queue")
    found: WorkQueue = hook.run(live.gateway)
    return found


async def test_items_of_a_model_that_is_yet_to_be_loaded_wait_for_its_worker(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(quick(), workers=())
    live.gateway.workers.set_loadable(frozenset({"sim"}))
    ids = await queue(live, *[new_item() for _ in range(3)])
    [known] = (await _queue(live).backlog()).items()
    assert known[0] == "sim"
    assert (known[1].queued, known[1].running) == (3, 0)
    assert engine_of(live).runner.pace.rooms()[0] == {"sim": 0}
    async with Moody() as worker:
        live.gateway.workers.add(WorkerSettings(url=worker.url, models=("sim",)))
        assert {item.attempts for item in await ended(live, ids)} == {1}


async def test_backlog_tells_the_oldest_and_the_highest_priority_of_what_waits(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for("batch", workers=())
    live.gateway.workers.set_loadable(frozenset({"sim", "other"}))
    shared = _queue(live)
    assert await shared.backlog() == {}
    for number, priority in enumerate((1, 7, 3)):
        one = NewWork(
            id=str(number), path="/v1/completions", model="sim", body=BODY, priority=priority
        )
        await shared.submit(Principal(f"key-{number}"), [one])
    first = await shared.find("0")
    assert first is not None
    [backlog] = (await shared.backlog()).values()
    assert (backlog.queued, backlog.priority, backlog.oldest) == (3, 7, first.submitted)


async def test_preempted_items_of_one_model_run_again(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        live = await gateway_for(quick(max_attempts=1), workers=[worker.url])
        ids = await queue(live, *[new_item() for _ in range(5)])
        await until(lambda: worker.held > 1)
        assert await _queue(live).preempt("another") == 0
        assert await _queue(live).preempt("sim") > 1
        worker.gate.set()
        assert {item.charged for item in await ended(live, ids)} == {1}
