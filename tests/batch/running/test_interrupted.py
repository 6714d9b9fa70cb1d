"""Calls of items that are ended early: faults 3.9, 3.10 and 3.11, drains and shutdowns."""

import asyncio
import re
import signal
import threading
from pathlib import Path

import pytest
from gateway_plugins.batch.queue.items import COMPLETED, QUEUED
from gateway_plugins.batch.running import upkeep
from support.gateways.serving_process import serving
from support.plugins.recording_plugin import until
from support.records.queued_items import engine_of, new_item
from support.records.run_items import answer_of, count, ended, item_of, queue, quick, run
from support.workers.failing_on_demand import Moody
from support.workers.restarting_worker import restarting

from gateway import Database
from gateway.config import Config, Probes, StorageSettings, Worker
from gateway.testing import NO_PROBES, GatewayFor, entry, live


async def test_fault_3_9_items_that_are_preempted_run_again_without_an_error(
    gateway_for: GatewayFor,
) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        gateway = await gateway_for(quick(max_attempts=1), workers=[worker.url])
        ids = await queue(gateway, *[new_item() for _ in range(20)])
        await until(lambda: worker.held > 1)
        assert engine_of(gateway).runner.preempt("sim") > 1
        await until(lambda: worker.held > 1)
        engine_of(gateway).runner.preempt()
        worker.gate.set()
        items = await ended(gateway, ids)
        assert {(item.state, item.charged) for item in items} == {(COMPLETED, 1)}
        assert max(item.attempts for item in items) > 1


async def test_fault_3_9_items_that_a_draining_gateway_cuts_off_complete_in_the_next(
    tmp_path: Path,
) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        config = Config(
            workers=(Worker(url=worker.url),),
            plugins=(quick(max_attempts=1),),
            probes=NO_PROBES,
            storage=StorageSettings(path=str(tmp_path / "gateway.db")),
        )
        async with live(config) as gateway:
            ids = await queue(gateway, *[new_item() for _ in range(20)])
            await until(lambda: worker.held > 1)
            await gateway.gateway.drain(0)
            items = [await item_of(gateway, one) for one in ids]
            assert {(item.state, item.charged) for item in items} == {(QUEUED, 0)}
            sent = len(worker.requests)
        worker.gate.set()
        assert len(worker.requests) == sent
        async with live(config) as gateway:
            items = await ended(gateway, ids)
            assert {(item.state, item.status) for item in items} == {(COMPLETED, 200)}


async def test_items_in_flight_end_while_the_gateway_drains_and_no_other_begins(
    gateway_for: GatewayFor,
) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        gateway = await gateway_for(quick(), workers=[worker.url])
        ids = await queue(gateway, *[new_item() for _ in range(20)])
        runner = engine_of(gateway).runner
        await until(lambda: worker.held == len(runner) > 1)
        begun = worker.held
        draining = asyncio.create_task(gateway.gateway.drain(None))
        await until(lambda: gateway.gateway.draining)
        worker.gate.set()
        await draining
        states = [(await item_of(gateway, one)).state for one in ids]
        assert states.count(COMPLETED) == begun == len(worker.requests)
        assert states.count(QUEUED) == 20 - begun


async def test_a_terminated_gateway_loses_no_item_and_charges_none(tmp_path: Path) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        path = str(tmp_path / "gateway.db")
        config = Config(
            workers=(Worker(url=worker.url),),
            plugins=(quick(max_attempts=1),),
            storage=StorageSettings(path=path),
            probes=NO_PROBES,
        )
        (tmp_path / "gateway.yaml").write_text("plugins: [batch]\ntimeouts: {drain: 0.2}\n")
        more = ("--config", str(tmp_path / "gateway.yaml"))
        async with live(Config(plugins=(entry("batch"),), storage=config.storage)) as gateway:
            ids = await queue(gateway, *[new_item() for _ in range(20)])
        async with serving(worker.url, *more, storage__path=path) as process:
            await until(lambda: worker.held > 1)
            process.kill(signal.SIGTERM)
            assert await process.ended() == 0
            assert not re.search(rb"Traceback|ERROR", process.log)
        worker.gate.set()
        async with live(config) as gateway:
            items = await ended(gateway, ids)
            assert {(item.state, item.charged) for item in items} == {(COMPLETED, 1)}


@pytest.mark.parametrize("first", ["cancel", "answer"])
async def test_fault_3_10_an_item_canceled_between_answer_and_write_is_not_run_or_billed_again(
    gateway_for: GatewayFor, first: str
) -> None:
    """The writer's thread is held, so that both are on their way before either is stored."""
    async with Moody() as worker:
        worker.gate.clear()
        gateway = await gateway_for(quick(), "usage", workers=[worker.url])
        [item_id] = await queue(gateway, new_item())
        await until(lambda: worker.held == 1)
        free, held = threading.Event(), threading.Event()

        def hold(_: Database) -> None:
            held.set()
            free.wait()

        holding = asyncio.create_task(gateway.gateway.storage.write(hold))
        await until(held.is_set)
        engine, health = engine_of(gateway), gateway.gateway.storage.health
        if first == "cancel":
            canceling = asyncio.create_task(engine.cancel(item_id))
            await asyncio.sleep(0)
        worker.gate.set()
        await until(lambda: health.waiting > 0)
        if first == "answer":
            canceling = asyncio.create_task(engine.cancel(item_id))
            await asyncio.sleep(0)
        free.set()
        await holding
        canceled = await canceling
        [item] = await ended(gateway, [item_id])
        await until(lambda: len(engine.runner) == 0)
        assert canceled == (first == "cancel")
        assert (item.state == COMPLETED) == (not canceled)
        assert (await answer_of(gateway, item) is None) == canceled
        assert (await item_of(gateway, item_id)).attempts == 1
        assert len(worker.requests) == 1
        assert await count(gateway, "usage_calls") == 1


async def test_an_item_that_is_canceled_while_it_runs_ends_its_call(
    gateway_for: GatewayFor,
) -> None:
    async with Moody() as worker:
        worker.gate.clear()
        gateway = await gateway_for(quick(), workers=[worker.url])
        [item_id] = await queue(gateway, new_item())
        await until(lambda: worker.held == 1)
        assert await engine_of(gateway).cancel(item_id)
        await until(lambda: worker.connections_open == 0)
        worker.gate.set()
        await run(gateway, new_item())
        item = await item_of(gateway, item_id)
        assert (item.state, item.attempts) == (4, 1)


async def test_fault_3_11_items_wait_for_an_engine_that_died_after_it_was_ready(
    gateway_for: GatewayFor,
) -> None:
    probes = Probes(interval=0.1, path="/health", models_interval=None)
    async with restarting() as worker:
        gateway = await gateway_for(quick(), workers=[worker.url], probes=probes)
        await run(gateway, new_item())
        await worker.become("killed")
        ids = await queue(gateway, *[new_item() for _ in range(50)])
        await until(lambda: not gateway.gateway.workers.fit)
        await asyncio.sleep(0.2)
        tried = [(await item_of(gateway, one)).attempts for one in ids]
        assert sum(tried) <= 8, "the queue was not churned through"
        await worker.become("well")
        items = await ended(gateway, ids)
        assert {(item.state, item.charged) for item in items} == {(COMPLETED, 1)}


async def test_an_item_whose_end_cannot_be_stored_runs_again(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses the end alone, so that nothing else of the call is at fault."""
    monkeypatch.setattr(upkeep, "LOOK", 0.1)
    refuses = (
        "CREATE TRIGGER refuse BEFORE UPDATE ON batch_items WHEN NEW.state = 2"
        " BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    async with Moody() as worker:
        gateway = await gateway_for(quick(), workers=[worker.url])
        storage = gateway.gateway.storage
        await storage.write(lambda db: db.execute(refuses))
        [item_id] = await queue(gateway, new_item())
        await until(lambda: len(worker.requests) > 1)
        await storage.write(lambda db: db.execute("DROP TRIGGER refuse"))
        [item] = await ended(gateway, [item_id])
        assert (item.state, item.attempts) == (COMPLETED, len(worker.requests))
