"""One runtime and two models: who has it, what becomes of the calls of the other."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from gateway_plugins.batch import Batch
from gateway_plugins.batch.queue.items import COMPLETED
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.records.queued_items import new_item
from support.records.run_items import ended, queue
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model, phases, reached, starts
from support.runtime.tiny_engines import tiny

from gateway.testing import GatewayFor, Live, entry

BATCH = entry(Batch, min_pause=0.01, max_pause=0.05)
PATIENT = {**QUICK, "drain_batch": 0.1}


async def test_call_for_another_model_makes_an_idle_model_give_way(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), tiny("b"), rules=QUICK), workers=())
    for name in ("a", "b"):
        answer = await live.client.post(CHAT, json=chat(model=name))
        assert (answer.status_code, answer.json()["model"]) == (200, name)
    assert phases(live) == ["loading(a)", "hot(a)", "draining(a -> b)", "loading(b)", "hot(b)"]
    assert [worker.models for worker in live.gateway.workers.all] == [frozenset({"b"})]


async def test_fault_2_4_calls_during_a_switch_get_200_or_503_and_their_own_model(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), tiny("b"), rules=QUICK), workers=())
    seen: list[tuple[int, str]] = []

    async def ask(name: str) -> None:
        for _ in range(3):
            answer = await live.client.post(CHAT, json=chat(model=name))
            assert answer.status_code in (200, 503)
            assert answer.status_code == 503 or answer.json()["model"] == name
            seen.append((answer.status_code, name))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for name in ("a", "b", "a"):
            group.create_task(ask(name))
    assert seen.count((200, "a")) == 6
    assert seen.count((200, "b")) == 3


@pytest.mark.slow
async def test_two_models_that_are_always_wanted_each_serve_before_they_give_way(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, model("a"), model("b"), rules=QUICK), workers=())
    calls = [
        asyncio.create_task(live.client.post(CHAT, json=chat(model=name))) for name in "abababab"
    ]
    assert {(await call).status_code for call in calls} == {200}
    assert starts(tmp_path) == 2


async def test_stream_is_finished_before_its_model_gives_way(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    slow = model("a", "--itl", "0.05")
    live = await gateway_for(box(tmp_path, slow, tiny("b"), rules=QUICK), workers=())
    request = live.client.stream("POST", CHAT, json=chat(model="a", stream=True, max_tokens=10))
    async with request as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        other = asyncio.create_task(live.client.post(CHAT, json=chat(model="b")))
        await reached(live, lambda state: state.startswith("draining"))
        rest = [line async for line in lines]
    assert "data: [DONE]" in rest
    assert (await other).status_code == 200


@pytest.mark.slow
async def test_fault_5_11_stream_that_takes_too_long_ends_with_an_error_event(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    slow = model("a", "--itl", "0.5")
    rules = {**QUICK, "drain_realtime": 0.3}
    two = box(tmp_path, slow, model("b"), rules=rules)
    live = await gateway_for(two, workers=(), stream_errors="event")
    request = live.client.stream("POST", CHAT, json=chat(model="a", stream=True, max_tokens=2_000))
    async with request as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        other = asyncio.create_task(live.client.post(CHAT, json=chat(model="b")))
        rest: list[str] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await _gather(lines, rest)
    assert "model_switched" in "\n".join(rest)
    assert (await other).status_code == 200


@pytest.mark.slow
async def test_fault_5_4_drain_without_calls_takes_no_time(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    rules = {**QUICK, "drain_batch": 60, "drain_realtime": 60}
    live = await gateway_for(box(tmp_path, model("a"), model("b"), rules=rules), workers=())
    async with asyncio.timeout(20):
        for name in ("a", "b"):
            assert (await live.client.post(CHAT, json=chat(model=name))).status_code == 200


async def _gather(lines: AsyncIterator[str], found: list[str]) -> None:
    async for line in lines:
        found.append(line)  # noqa: PERF401  it raises at the end


@pytest.fixture
async def busy(gateway_for: GatewayFor, tmp_path: Path) -> tuple[Live, list[str]]:
    """A gateway whose model `bulk` is busy with items, and their ids."""
    models = model("assistant"), model("bulk", "--itl", "0.2")
    realtime = box(tmp_path, *models, rules=PATIENT, runtime={"realtime": "assistant"})
    live = await gateway_for(BATCH, realtime, workers=())
    await reached(live, lambda state: state == "hot(assistant)")
    ids = await queue(live, *[new_item(model="bulk", max_tokens=5) for _ in range(16)])
    await reached(live, lambda state: state == "hot(bulk)")
    await until(lambda: live.gateway.workers.all[0].in_flight > 1)
    return live, ids


@pytest.mark.slow
async def test_fault_3_9_realtime_call_displaces_items_which_all_complete_later(
    busy: tuple[Live, list[str]],
) -> None:
    live, ids = busy
    answer = await live.client.post(CHAT, json=chat(model="assistant"))
    assert (answer.status_code, answer.json()["model"]) == (200, "assistant")
    items = await ended(live, ids)
    assert {(item.state, item.charged) for item in items} == {(COMPLETED, 1)}
    assert max(item.attempts for item in items) > 1


@pytest.mark.slow
async def test_realtime_model_comes_back_once_the_items_are_done(
    busy: tuple[Live, list[str]],
) -> None:
    live, ids = busy
    await ended(live, ids)
    await reached(live, lambda state: state == "loading(assistant)" and len(phases(live)) > 4)
    await until(lambda: phases(live)[-1] == "hot(assistant)")


async def test_items_for_the_model_that_is_hot_need_no_switch(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(BATCH, box(tmp_path, tiny("a"), tiny("b"), rules=QUICK), workers=())
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    await ended(live, await queue(live, *[new_item(model="a") for _ in range(8)]))
    assert starts(tmp_path) == 1


@pytest.mark.slow
async def test_fault_6_1_killed_engine_is_replaced_and_calls_wait_for_the_next(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, model("a"), rules=QUICK), workers=())
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    [owner] = fleet_of(live).owners
    assert owner.identity is not None
    os.kill(int(owner.identity.removeprefix("process ")), signal.SIGKILL)
    await reached(live, lambda state: state == "failed(a)")
    answer = await live.client.post(CHAT, json=chat(model="a"))
    assert (answer.status_code, starts(tmp_path)) == (200, 2)
    assert fleet_of(live).memory.of("a").reason is None


@pytest.mark.slow
async def test_fault_6_1_engine_killed_under_load_loses_no_item(
    busy: tuple[Live, list[str]],
) -> None:
    live, ids = busy
    [owner] = fleet_of(live).owners
    assert owner.identity is not None
    os.kill(int(owner.identity.removeprefix("process ")), signal.SIGKILL)
    assert {item.state for item in await ended(live, ids)} == {COMPLETED}
