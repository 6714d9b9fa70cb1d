"""The simulator's development endpoints: bodies as recorded, and what they do to generations."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.plugins.recording_plugin import until
from support.records.vllm_recordings import load

from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import MESSAGES

REPLAYED = [
    "devmode/rl_get_is_paused",
    "devmode/rl_get_weight_info",
    "devmode/rl_post_pause",
    "devmode/rl_post_pause_mode-wait",
    "devmode/rl_get_is_paused_2",
    "devmode/rl_post_pause_mode-keep",
    "devmode/rl_post_pause_mode-bogus",
    "devmode/mid_resume_1",
    "devmode/rl_get_is_sleeping",
    "devmode/sleep_post_sleep_level-1",
    "devmode/sleep_get_is_sleeping_2",
    "devmode/sleep_post_wake_up",
    "devmode/sleep_get_is_sleeping_3",
    "devmode/rl_post_reset_prefix_cache",
    "devmode/rl_post_update_weight_version_step-7",
    "devmode/rl_post_abort_requests",
    "devmode/rl_post_collective_rpc",
    "devmode/rl_post_collective_rpc_no_such",
    "reload/r2_reload",
    "devmode/rl_post_update_weights",
    "devmode/rl_post_update_weights_names",
    "devmode/rl_post_finish_weight_update_step-8",
    "devmode/rl_post_start_weight_update",
    "devmode/rl_post_finish_weight_update",
    "trl_client/02_get_get_world_size",
]
"""In an order in which one engine can have been asked all of it."""


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(development=True, itl=0.002)) as running:
        yield running


@pytest.fixture
async def client(engine: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=engine.url, timeout=None) as opened:
        yield opened


def body(**fields: object) -> dict[str, object]:
    messages = [dict(one) for one in MESSAGES]
    return {"messages": messages, "temperature": 0, "max_tokens": 8, "ignore_eos": True, **fields}


async def chat(client: httpx.AsyncClient, **fields: object) -> Any:
    answer = await client.post("/v1/chat/completions", json=body(**fields))
    return answer.json()


async def text(client: httpx.AsyncClient) -> str:
    found: str = (await chat(client))["choices"][0]["message"]["content"]
    return found


async def order(client: httpx.AsyncClient, path: str, **sent: object) -> None:
    answer = await client.post(path, json=sent)
    assert answer.status_code == 200, answer.text


async def test_development_endpoints_return_the_recorded_bodies(client: httpx.AsyncClient) -> None:
    for name in REPLAYED:
        told = load()[name]
        headers = {"content-type": "application/json"}
        answer = await client.request(
            told.method, told.path, content=told.request_body, headers=headers
        )
        assert (answer.status_code, answer.json()) == (told.status, json.loads(told.body)), name


async def test_development_endpoints_return_404_if_disabled(simulator: Simulator) -> None:
    async with httpx.AsyncClient(base_url=simulator.url) as client:
        for name in REPLAYED:
            told = load()[name]
            answer = await client.request(told.method, told.path)
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


async def test_reload_changes_the_text_and_restores_it_with_the_old_weights(
    client: httpx.AsyncClient,
) -> None:
    first = await text(client)
    told = []
    for path in ("b", "c", "b", "sim"):
        kwargs = {"weights_path": path}
        await order(client, "/collective_rpc", method="reload_weights", kwargs=kwargs)
        told.append(await text(client))
    assert told[3] == first
    assert told[0] == told[2]
    assert len({first, *told}) == 3


async def test_weight_transfer_changes_the_text_and_the_weight_version(
    client: httpx.AsyncClient,
) -> None:
    before = await text(client)
    await order(client, "/init_weight_transfer_engine", init_info={})
    await order(client, "/start_weight_update")
    await order(client, "/update_weights", update_info={"names": ["x"]})
    await order(client, "/finish_weight_update", weight_version="step-1")
    assert await text(client) != before
    assert (await client.get("/weight_info")).json() == {"weight_version": "step-1"}


async def test_paused_engine_holds_new_calls_until_resume(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    await order(client, "/pause?mode=wait")
    waiting = asyncio.create_task(text(client))
    await until(lambda: engine.stats.in_flight == 1)
    await order(client, "/collective_rpc", method="reload_weights", kwargs={"weights_path": "b"})
    assert not waiting.done()
    await order(client, "/resume")
    assert await waiting == await text(client)


async def test_paused_engine_drops_a_call_whose_caller_leaves(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    await order(client, "/pause")
    waiting = asyncio.create_task(text(client))
    await until(lambda: engine.stats.in_flight == 1)
    waiting.cancel()
    await engine.idle()


async def running(engine: Simulator, client: httpx.AsyncClient, **fields: object) -> Any:
    """A task with a call that generates, and does not end soon."""
    asked = {"max_tokens": 1500, **fields}
    task = asyncio.create_task(client.post("/v1/chat/completions", json=body(**asked)))
    async with httpx.AsyncClient(base_url=engine.url) as other:
        while "num_requests_running" not in (found := await other.get("/metrics")).text or (
            'running{engine="0",model_name="sim"} 0.0' in found.text
        ):
            pass
    return task


@pytest.mark.parametrize("how", ["/pause", "/abort_requests"])
async def test_pause_and_abort_end_a_running_generation(
    engine: Simulator, client: httpx.AsyncClient, how: str
) -> None:
    task = await running(engine, client)
    await order(client, how)
    assert (await task).json()["choices"][0]["finish_reason"] == "abort"


async def test_abort_ends_only_the_named_request(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    task = await running(engine, client, request_id="mine", max_tokens=200)
    await order(client, "/abort_requests", request_ids=["chatcmpl-other"])
    assert not task.done()
    await order(client, "/abort_requests", request_ids=["chatcmpl-mine"])
    assert (await task).json()["choices"][0]["finish_reason"] == "abort"


async def test_pause_in_wait_mode_lets_a_running_generation_finish(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    task = await running(engine, client, max_tokens=100)
    await order(client, "/pause?mode=wait")
    assert (await task).json()["choices"][0]["finish_reason"] == "length"


async def test_pause_in_keep_mode_resumes_a_generation_with_the_new_weights(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    whole = (await chat(client, max_tokens=200))["choices"][0]["message"]["content"]
    task = await running(engine, client, max_tokens=200)
    await order(client, "/pause?mode=keep")
    await order(client, "/collective_rpc", method="reload_weights", kwargs={"weights_path": "b"})
    assert not task.done()
    await order(client, "/resume")
    mixed = (await task).json()["choices"][0]
    assert mixed["finish_reason"] == "length"
    assert mixed["message"]["content"] != whole
    assert mixed["message"]["content"][:5] == whole[:5]


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_dies_if_a_generation_starts_during_a_weight_transfer(
    engine: Simulator, client: httpx.AsyncClient, stream: bool
) -> None:
    await order(client, "/start_weight_update")
    died = await client.post("/v1/chat/completions", json=body(stream=stream))
    assert "EngineCore encountered an issue" in died.text
    assert (died.status_code, died.text.endswith("[DONE]\n\n")) == (
        (200, True) if stream else (500, False)
    )
    assert (await client.get("/weight_info")).status_code == 500
    assert (await client.get("/health")).status_code == 503

    async def refused() -> bool:
        try:
            async with httpx.AsyncClient(base_url=engine.url) as other:
                await other.get("/health")
        except httpx.ConnectError:
            return True
        return False

    while not await refused():
        pass


async def test_engine_asleep_holds_calls_until_it_is_woken_with_its_weights(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    before = await text(client)
    await order(client, "/sleep?level=1")
    assert (await client.get("/health")).status_code == 200
    assert (await client.get("/v1/models")).status_code == 200
    assert (await client.get("/is_paused")).json() == {"is_paused": True}
    waiting = asyncio.create_task(text(client))
    await until(lambda: engine.stats.in_flight == 1)
    woken = await client.post("/wake_up?tags=weights")
    assert woken.json() == {"status": "sleeping", "tags": ["weights"]}
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": True}
    assert not waiting.done()
    woken = await client.post("/wake_up?tags=kv_cache")
    assert woken.json() == {"status": "awake", "tags": ["kv_cache"]}
    assert await waiting == before


async def test_sleep_aborts_running_generations(
    engine: Simulator, client: httpx.AsyncClient
) -> None:
    task = await running(engine, client)
    await order(client, "/sleep?level=2")
    assert (await task).json()["choices"][0]["finish_reason"] == "abort"


async def test_engine_loses_its_weights_at_level_2_until_they_are_loaded_anew(
    client: httpx.AsyncClient,
) -> None:
    before = await text(client)
    await order(client, "/sleep?level=2")
    await order(client, "/sleep?level=1")
    await order(client, "/wake_up")
    assert await text(client) != before
    await order(client, "/collective_rpc", method="reload_weights")
    assert await text(client) == before


async def test_wake_up_with_tags_that_are_not_asleep_changes_nothing_but_a_pause(
    client: httpx.AsyncClient,
) -> None:
    await order(client, "/sleep?level=0")
    woken = await client.post("/wake_up?tags=weights")
    assert woken.json() == {"status": "awake", "tags": ["weights"]}
    await order(client, "/sleep")
    await order(client, "/wake_up?tags=weights")
    assert (await client.post("/wake_up?tags=weights&tags=kv_cache")).json() == {
        "status": "sleeping",
        "tags": ["weights", "kv_cache"],
    }
    assert (await client.post("/wake_up?tags=scheduling")).json()["status"] == "sleeping"
    assert (await client.post("/wake_up?tags=kv_cache")).json()["status"] == "awake"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("level=3", "less than or equal to 2"),
        ("level=-1", "greater than or equal to 0"),
        ("level=deep", "valid integer"),
        ("mode=softly", "'abort', 'wait' or 'keep'"),
    ],
)
async def test_sleep_rejects_levels_and_modes_that_it_does_not_have(
    client: httpx.AsyncClient, query: str, says: str
) -> None:
    refused = await client.post(f"/sleep?{query}")
    assert refused.status_code == 400
    assert says in refused.json()["error"]["message"]
    assert (await client.get("/is_sleeping")).json() == {"is_sleeping": False}
