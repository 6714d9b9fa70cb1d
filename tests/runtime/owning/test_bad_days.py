"""What goes wrong on a bad day: engines that hang, disks that are locked, hasty changes of mind."""

import asyncio
import os
import signal
import socket
import sqlite3
from pathlib import Path
from time import monotonic

import pytest
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.ports import free_port
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, phases, reached, starts
from support.runtime.tiny_engines import tiny

from gateway import ConfigError
from gateway.config import Probes, Worker
from gateway.testing import GatewayFor, Live, entry

OFTEN = Probes(interval=0.05, timeout=0.1, models_interval=None)


async def ask(live: Live, model: str = "a") -> int:
    return (await live.client.post(CHAT, json=chat(model=model))).status_code


def pid_of(live: Live) -> int:
    [owner] = fleet_of(live).owners
    assert owner.identity is not None
    return int(owner.identity.removeprefix("process "))


@pytest.mark.slow
async def test_fault_5_5_engine_that_leaves_slowly_is_gone_before_the_third_decision_starts_one(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = tiny("a", "hang_from=1", "leave=2", warmup=600.0), tiny("b"), tiny("c")
    live = await gateway_for(box(tmp_path, *models, rules=QUICK, hold=30.0), workers=())
    for name in ("a", "b"):
        leaving = asyncio.create_task(ask(live, name))
        loading = [f"loading({name})"]
        await reached(live, loading.__contains__)
        await until(lambda: _listens(live))
        leaving.cancel()
        await until(lambda: len(fleet_of(live).holding) == 0)
    assert await ask(live, "c") == 200
    assert not any(state.startswith("failed") for state in phases(live))
    assert fleet_of(live).memory.of("b").failures == 0


def _listens(live: Live) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", fleet_of(live).options.runtimes[0].port)) == 0


@pytest.mark.slow
async def test_engine_that_has_long_printed_nothing_gets_calls_again_after_a_doubt(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a", log_timeout=2.0)), workers=())
    assert await ask(live) == 200
    quiet = monotonic() + 2.0
    await until(lambda: monotonic() > quiet)
    [owner] = fleet_of(live).owners
    [worker] = live.gateway.workers.all
    owner.doubt(worker)
    assert not worker.fit
    async with asyncio.timeout(30):
        assert await ask(live) == 200
    assert starts(tmp_path) == 1


@pytest.mark.slow
async def test_fault_6_9_engine_that_hangs_is_replaced_and_its_callers_wait_for_the_next(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), grace=0.2), workers=(), probes=OFTEN)
    fleet_of(live).loader.doubt = 0.5
    assert await ask(live) == 200
    os.kill(pid_of(live), signal.SIGSTOP)
    await until(lambda: not live.gateway.workers.all[0].fit)
    assert await ask(live) == 200
    assert starts(tmp_path) == 2
    assert "failed(a)" in phases(live)


@pytest.mark.slow
async def test_engine_that_answers_but_generates_nothing_is_replaced(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    hangs = tiny("a", "hang_from=3", warmup=0.2)
    live = await gateway_for(box(tmp_path, hangs), workers=(), timeouts={"first_byte": 0.3})
    fleet_of(live).loader.doubt = 0.3
    assert [await ask(live) for _ in range(2)] == [200, 504]
    await reached(live, lambda state: state == "failed(a)")
    assert (fleet_of(live).memory.of("a").text or "").startswith("the engine generated nothing")
    assert await ask(live) == 200
    assert starts(tmp_path) == 2


@pytest.mark.slow
async def test_engine_that_was_silent_once_goes_on_if_it_generates(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    slow = tiny("a", "hang_at=3")
    live = await gateway_for(box(tmp_path, slow), workers=(), timeouts={"first_byte": 0.3})
    assert await ask(live) == 200
    [worker] = live.gateway.workers.all
    seen: list[bool] = []
    live.gateway.workers.changed.append(lambda: seen.append(worker.fit))
    assert await ask(live) == 504
    await until(lambda: seen == [False, True])
    assert await ask(live) == 200
    assert starts(tmp_path) == 1


@pytest.mark.slow
async def test_doubt_of_an_engine_that_makes_room_does_not_let_calls_in(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = tiny("a", "slow=1"), tiny("b")
    live = await gateway_for(box(tmp_path, *models, rules=QUICK), workers=())
    call = asyncio.create_task(ask(live, "a"))
    await reached(live, lambda state: state == "hot(a)")
    [owner] = fleet_of(live).owners
    [worker] = live.gateway.workers.all
    owner.doubt(worker)
    other = asyncio.create_task(ask(live, "b"))
    await reached(live, lambda state: state == "draining(a -> b)")
    seen: list[bool] = []
    live.gateway.workers.changed.append(lambda: seen.append(worker.fit))
    assert (await call, await other) == (200, 200)
    assert seen
    assert not any(seen)


@pytest.mark.slow
async def test_model_is_loaded_while_the_database_is_locked(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    path = tmp_path / "gateway.db"
    storage = {"path": str(path), "commit_timeout": 0.2}
    live = await gateway_for(box(tmp_path, tiny("a")), workers=(), storage=storage)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert await ask(live) == 200
        assert phases(live) == ["loading(a)", "hot(a)"]
    finally:
        other.close()


@pytest.mark.slow
async def test_engine_whose_worker_an_operator_removed_is_listed_again(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a")), workers=())
    assert await ask(live) == 200
    assert (await live.client.delete("/admin/workers/gpu")).status_code == 200
    async with asyncio.timeout(30):
        assert await ask(live) == 200
    assert starts(tmp_path) == 1


@pytest.mark.slow
async def test_worker_that_an_operator_added_under_the_name_of_the_runtime_stays(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a")), workers=())
    added = {"url": "http://127.0.0.1:1", "worker_id": "gpu", "models": ["other"]}
    assert (await live.client.post("/admin/workers", json=added)).status_code == 200
    assert await ask(live) == 200
    assert [worker.id for worker in live.gateway.workers.all] == ["gpu", "gpu-2"]


@pytest.mark.slow
async def test_worker_of_the_configuration_with_the_name_of_a_runtime_is_a_mistake(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    same = Worker(url="http://127.0.0.1:1", worker_id="gpu")
    with pytest.raises(ConfigError, match="gpu: a worker of the configuration has this"):
        await gateway_for(box(tmp_path, tiny("a")), workers=(same,))


@pytest.mark.slow
async def test_engine_that_hangs_at_its_warm_up_has_failed(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    hangs = tiny("a", "hang_from=1", warmup=0.2)
    restarts = {"first": 60, "longest": 60}
    live = await gateway_for(box(tmp_path, hangs, restarts=restarts, hold=30.0), workers=())
    answer = await live.client.post(CHAT, json=chat(model="a"))
    assert (answer.status_code, answer.json()["reason"]) == (503, "runtime_not_ready")


@pytest.mark.slow
async def test_fault_6_1_engine_that_dies_soon_after_each_load_is_started_less_and_less_often(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    dies = tiny("a", "exit_at=2")
    restarts = {"first": 0.1, "longest": 60, "most": 3}
    live = await gateway_for(box(tmp_path, dies, restarts=restarts, hold=30.0), workers=())
    assert [await ask(live) for _ in range(4)] == [502, 502, 502, 503]
    assert starts(tmp_path) == 3
    shown = (await live.client.get("/admin/runtime")).json()["models"]["a"]
    assert (shown["failures"], shown["reason"]) == (3, "runtime_crashed")
    assert shown["retry_in"] > 3_000


async def test_calls_go_to_the_other_runtime_when_one_of_two_engines_of_a_model_dies(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    places = [{"name": name, "port": free_port(), "realtime": "a"} for name in ("one", "two")]
    restarts = {"first": 60, "longest": 60}
    both = box(tmp_path, tiny("a"), runtimes=places, restarts=restarts, hold=600.0)
    live = await gateway_for(both, workers=())
    owners = fleet_of(live).owners
    await until(lambda: all(str(owner.state) == "hot(a)" for owner in owners))
    pid = int((owners[0].identity or "").removeprefix("process "))
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        assert [await ask(live) for _ in range(6)] == [200] * 6
    await until(lambda: str(owners[0].state) == "failed(a)")
    assert str(owners[1].state) == "hot(a)"


@pytest.mark.slow
async def test_backpressure_that_refuses_without_a_worker_leaves_the_waiting_to_the_runtime(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    gate = entry("backpressure", max_in_flight_per_worker=1, no_worker="refuse")
    models = tiny("a", "slow=0.05"), tiny("b", "slow=0.05")
    live = await gateway_for(box(tmp_path, *models, rules=QUICK), gate, workers=())
    names = ["a"] * 6 + ["b"] * 6
    assert await asyncio.gather(*[ask(live, name) for name in names]) == [200] * 12
