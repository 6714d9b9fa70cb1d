"""Items that have to wait: for workers, for a budget, for their turn; and their deadlines."""

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
from gateway_plugins.batch.queue.items import COMPLETED, ERROR, QUEUED, Owner
from gateway_plugins.batch.running import upkeep
from support.plugins.recording_plugin import Watcher, until
from support.records.queued_items import engine_of, new_item
from support.records.run_items import answer_of, count, ended, item_of, queue, quick, run
from support.steady import steady
from support.workers.failing_on_demand import Moody, breaker, fail, state_of
from support.workers.failing_worker import refusal
from support.workers.full_backlog import full_backlog
from support.workers.loading_worker import LoadingWorker

from gateway import Principal
from gateway.config import Timeouts, Worker
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, ScriptedWorker, entry

MANY = 500


async def test_items_of_a_model_whose_workers_are_away_wait_while_those_of_another_run(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with Simulator(SimulatorConfig(model="away")) as away:
        workers = [
            Worker(url=simulator.url, models=("sim",)),
            Worker(url=away.url, models=("away",)),
        ]
        live = await gateway_for(quick(), entry(Watcher), workers=workers)
        live.gateway.workers.all[1].mark("test", "down", "it is away")
        waiting = await queue(live, *[new_item(model="away") for _ in range(MANY)])
        await run(live, *[new_item() for _ in range(20)])
        assert await count(live, "batch_items", "attempts > 0") == 20
        assert len(live.plugin(Watcher).outcomes) == 20
        live.gateway.workers.all[1].clear("test")
        [item] = await ended(live, waiting[:1])
        assert item.state == COMPLETED


@steady
async def test_a_worker_that_takes_no_connection_is_asked_by_few_items_of_many(
    gateway_for: GatewayFor,
) -> None:
    with full_backlog() as url:
        timeouts = Timeouts(connect=0.05)
        live = await gateway_for(
            quick(min_pause=0.3, max_pause=60.0), entry(Watcher), workers=[url], timeouts=timeouts
        )
        ids = await queue(live, *[new_item() for _ in range(MANY)])
        await live.plugin(Watcher).calls(8)
        await asyncio.sleep(0.5)
        assert 8 <= len(live.plugin(Watcher).outcomes) <= 12
        assert await count(live, "batch_items", "state = 0 AND charged = 0") == len(ids)


async def test_a_worker_that_refuses_all_is_asked_by_few_items_and_the_line_stays_short(
    gateway_for: GatewayFor,
) -> None:
    """Refused calls wait within backpressure, where realtime calls wait as well."""
    worker = LoadingWorker(refusal(503))
    async with worker.server as server:
        plugin = entry("backpressure", max_in_flight_per_worker=32)
        live = await gateway_for(quick(), plugin, workers=[server.url])
        ids = await queue(live, *[new_item() for _ in range(MANY)])
        await until(lambda: worker.refused > 0)
        await asyncio.sleep(0.5)
        assert len(engine_of(live).runner) <= 8
        worker.refuses = None
        items = await ended(live, ids[:1])
        assert items[0].state == COMPLETED


async def test_a_worker_whose_circuit_is_open_gets_no_item(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        worker.well = False
        live = await gateway_for(quick(), breaker(cooldown=0.5), workers=[worker.url])
        await fail(live)
        assert state_of(live) == "ejected"
        worker.well = True
        asked = len(worker.requests)
        ids = await queue(live, *[new_item() for _ in range(20)])
        assert len(worker.requests) == asked
        items = await ended(live, ids)
        assert {(item.state, item.charged) for item in items} == {(COMPLETED, 1)}


async def test_items_wait_for_the_budget_of_their_key_uncharged(gateway_for: GatewayFor) -> None:
    limits = entry("limits", default={"requests_per_minute": 600, "burst_requests": 5})
    watcher = entry(Watcher)
    live = await gateway_for(quick(max_attempts=1, max_pause=60.0), limits, watcher)
    began = time.monotonic()
    owner = Owner(Principal("ada"))
    items = await run(live, *[new_item() for _ in range(12)], owner=owner)
    assert {(item.state, item.charged) for item in items} == {(COMPLETED, 1)}
    assert time.monotonic() - began > 0.7
    refused = sum(outcome.status == 429 for outcome in live.plugin(Watcher).outcomes)
    assert 0 < refused <= 20


async def test_a_key_without_a_budget_rests_and_others_run(gateway_for: GatewayFor) -> None:
    limits = entry("limits", default={"requests_per_minute": 1})
    watcher = entry(Watcher)
    live = await gateway_for(quick(max_pause=60.0), limits, watcher)
    poor = await queue(live, *[new_item() for _ in range(MANY)], owner=Owner(Principal("ada")))
    [first] = await ended(live, poor[:1])
    others = [new_item() for _ in range(20)]
    for one in others:
        [item] = await run(live, one, owner=Owner(Principal(one.id)))
        assert item.state == COMPLETED
    assert first.state == COMPLETED
    assert len(live.plugin(Watcher).outcomes) <= 20 + 20


async def test_an_unknown_model_is_an_error_with_the_body_of_a_live_call(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with Simulator(SimulatorConfig(model="other")) as other:
        workers = [
            Worker(url=simulator.url, models=("sim",)),
            Worker(url=other.url, models=("other",)),
        ]
        live = await gateway_for(quick(), workers=workers)
        item = new_item(model="nobody's")
        answer = await live.client.post("/v1/chat/completions", content=item.body)
        [found] = await run(live, item)
        assert (found.state, found.status, found.attempts) == (ERROR, 404, 1)
        assert json.loads(await answer_of(live, found) or b"") == answer.json()


@steady
async def test_the_deadline_of_a_queued_item_is_enforced(gateway_for: GatewayFor) -> None:
    live = await gateway_for(quick())
    live.gateway.workers.all[0].mark("test", "down", "it is away")
    began = time.monotonic()
    [item] = await run(live, new_item(deadline=0.3))
    assert time.monotonic() - began < 5
    assert (item.state, item.status, item.attempts) == (ERROR, None, 0)
    assert item.last_error is not None
    assert item.last_error.code == "batch_expired"


@steady
async def test_the_deadline_of_a_running_item_is_enforced(gateway_for: GatewayFor) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        live = await gateway_for(quick(), workers=[worker.url])
        began = time.monotonic()
        [item] = await run(live, new_item(deadline=0.3))
        assert 0.3 <= time.monotonic() - began < 5
        assert (item.state, item.status, item.attempts) == (ERROR, None, 1)
        assert item.last_error is not None
        assert item.last_error.code == "batch_expired"
        await until(lambda: worker.connections_open == 0)
        worker.gate.set()


@steady
async def test_an_item_that_waits_to_be_tried_again_expires_at_its_deadline(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOOK", 0.05)
    async with ScriptedWorker(refusal(503, "retry-after: 60")) as worker:
        live = await gateway_for(quick(max_pause=60.0), workers=[worker.url])
        began = time.monotonic()
        [item] = await run(live, new_item(deadline=0.3))
        assert time.monotonic() - began < 5
        assert item.last_error is not None
        assert item.last_error.code == "batch_expired"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The first value is how many seconds the wall clock is ahead."""
    ahead, real = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    yield ahead
    monkeypatch.undo()


@pytest.mark.parametrize("jump", [3_000.0, -3_000.0, -1e9])
async def test_no_item_is_lost_when_the_clock_jumps(
    gateway_for: GatewayFor, clock: list[float], jump: float
) -> None:
    async with Moody() as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        worker.well = False
        queued = await queue(live, *[new_item() for _ in range(20)])
        await until(lambda: len(worker.requests) > 0)
        worker.gate.clear()
        clock[0] = jump
        worker.well = True
        worker.gate.set()
        later = await queue(live, *[new_item() for _ in range(5)])
        items = await ended(live, [*queued, *later])
        assert {item.state for item in items} == {COMPLETED}


async def test_items_that_failed_before_the_clock_was_set_back_are_tried_again_soon(
    gateway_for: GatewayFor, clock: list[float]
) -> None:
    clock[0] = 86_400.0
    async with Moody() as worker:
        worker.well = False
        live = await gateway_for(quick(min_pause=1.0, max_pause=1.0), workers=[worker.url])
        [item_id] = await queue(live, new_item())
        await until(lambda: len(worker.requests) > 0)
        await until(lambda: len(engine_of(live).runner) == 0)
        assert (await item_of(live, item_id)).state == QUEUED
        clock[0] = 0.0
        worker.well = True
        [item] = await ended(live, [item_id], 5.0)
        assert item.state == COMPLETED
