"""Engines that die, that are too slow, and that are wanted in two places."""

import asyncio
import os
import signal
import time
from pathlib import Path

import httpx
from gateway_plugins.runtime.drivers.machine.processes import alive
from support.gateways.capturing import chat
from support.ports import free_port
from support.runtime.boxes import CHAT, box, fleet_of, phases, reached, starts
from support.runtime.tiny_engines import tiny

from gateway.testing import GatewayFor, Live


async def ask(live: Live, model: str = "a") -> httpx.Response:
    return await live.client.post(CHAT, json=chat(model=model))


async def test_fault_2_5_call_to_a_dead_engine_waits_for_the_next_one(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    realtime = box(tmp_path, tiny("a"), runtime={"realtime": "a"})
    live = await gateway_for(realtime, workers=())
    await reached(live, lambda state: state == "hot(a)")
    [owner] = fleet_of(live).owners
    pid = int((owner.identity or "").removeprefix("process "))
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.001)  # noqa: ASYNC251  the gateway is not to notice it before the call
    assert (await ask(live)).status_code == 200
    assert starts(tmp_path) == 2
    assert "failed(a)" in phases(live)


async def test_fault_6_8_each_model_has_its_own_time_to_be_ready(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = (
        tiny("hasty", "load=600", ready_timeout=0.2),
        tiny("silent", "load=600", log_timeout=0.2),
        tiny("slow", "load=0.5", ready_timeout=30.0),
    )
    restarts = {"first": 60, "longest": 60}
    runtimes = [
        {"name": model["name"], "port": free_port(), "models": [model["name"]]} for model in models
    ]
    live = await gateway_for(
        box(tmp_path, *models, runtimes=runtimes, restarts=restarts, hold=30.0), workers=()
    )
    *late, slow = await asyncio.gather(*[ask(live, model["name"]) for model in models])
    assert [one.json()["reason"] for one in late] == ["runtime_timeout"] * 2
    known = [fleet_of(live).memory.of(name).text or "" for name in ("hasty", "silent")]
    assert known[0].startswith("the engine is not ready after 0.2 s")
    assert known[1].startswith("the engine has printed nothing for 0.2 s")
    assert slow.status_code == 200


async def test_fault_6_10_model_that_two_runtimes_may_load_is_started_once(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    runtimes = [{"name": name, "port": free_port()} for name in ("one", "two")]
    model = tiny("a", "load=0.3", load_time=60.0)  # held longer, calls would bring in the other one
    live = await gateway_for(box(tmp_path, model, runtimes=runtimes), workers=())
    answers = await asyncio.gather(*[ask(live) for _ in range(20)])
    assert {answer.status_code for answer in answers} == {200}
    assert starts(tmp_path) == 1
    assert sorted(str(owner.state) for owner in fleet_of(live).owners) == ["hot(a)", "idle"]
