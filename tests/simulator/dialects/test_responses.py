"""Responses of the simulator: the tokens of chat, and what is stored or runs in the background."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from simulator.dialects.recorded_shape import compare_heads
from simulator.dialects.test_tokens import CHAT, GENERATE, post
from simulator.test_simulator_shape import differences
from simulator.test_simulator_tools import WEATHER
from support.records.vllm_recordings import MORE, load

from gateway.simulator import Simulator, SimulatorConfig

Body = dict[str, Any]

RESPONSES = "/v1/responses"
ASKED: Body = {"input": "Hello", "temperature": 0}
TOOL: Body = {"type": "function", **WEATHER}
CONFIG = SimulatorConfig(scale_out=True, responses_store=True)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with Simulator(CONFIG) as sim, httpx.AsyncClient(base_url=sim.url) as one:
        yield one


def events_of(text: str) -> list[Body]:
    return [json.loads(frame.partition("\ndata: ")[2]) for frame in text.split("\n\n")[:-1]]


async def test_simulator_responses_tell_all_tokens_of_chat(client: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    body: Body = {"messages": messages, "temperature": 0, "return_token_ids": True}
    body["tools"] = [{"type": "function", "function": WEATHER}]
    chat = await post(client, CHAT, body)
    asked = {**ASKED, "tools": [TOOL], "enable_response_messages": True}
    found = await post(client, RESPONSES, asked)
    streamed = await client.post(RESPONSES, json={**asked, "stream": True})
    for one in (found, events_of(streamed.text)[-1]["response"]):
        assert one["input_messages"][0]["tokens"] == chat["prompt_token_ids"]
        assert one["output_messages"][0]["tokens"] == chat["choices"][0]["token_ids"]
        (call,) = one["output"]
        (function,) = chat["choices"][0]["message"]["tool_calls"]
        assert call["arguments"] == function["function"]["arguments"]
    rendered = await post(client, f"{RESPONSES}/render", {**ASKED, "tools": [TOOL]})
    generated = await post(client, GENERATE, rendered)
    assert generated["choices"][0]["token_ids"] == chat["choices"][0]["token_ids"]


async def test_simulator_numbers_the_events_of_responses(client: httpx.AsyncClient) -> None:
    found = events_of((await client.post(RESPONSES, json={**ASKED, "stream": True})).text)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    text = "".join(one["delta"] for one in found if one["type"].endswith("text.delta"))
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == text


async def test_simulator_responses_follow_those_that_are_stored(client: httpx.AsyncClient) -> None:
    first = await post(client, RESPONSES, ASKED)
    said = first["output"][0]["content"][0]["text"]
    again = {"input": "And then?", "temperature": 0, "enable_response_messages": True}
    found = await post(client, RESPONSES, {**again, "previous_response_id": first["id"]})
    messages = [("user", "Hello"), ("assistant", said), ("user", "And then?")]
    chat = {"messages": [{"role": role, "content": text} for role, text in messages]}
    prompt = (await post(client, "/tokenize", chat))["tokens"]
    assert found["input_messages"][0]["tokens"] == prompt
    stored = await client.get(f"{RESPONSES}/{first['id']}")
    assert stored.json() == first


async def test_simulator_stores_nothing_if_the_caller_or_the_engine_does_not(
    client: httpx.AsyncClient,
) -> None:
    found = await post(client, RESPONSES, {**ASKED, "store": False})
    assert (await client.get(f"{RESPONSES}/{found['id']}")).status_code == 404
    async with Simulator() as sim, httpx.AsyncClient(base_url=sim.url) as other:
        found = await post(other, RESPONSES, ASKED)
        answer = await other.post(RESPONSES, json={**ASKED, "previous_response_id": found["id"]})
    assert answer.status_code == 404
    expected = json.loads(load(MORE)["store/get_not_stored"].body)
    assert not differences(expected, answer.json())
    assert answer.json()["error"]["param"] == expected["error"]["param"]


async def test_simulator_runs_a_response_in_the_background(client: httpx.AsyncClient) -> None:
    queued = await client.post(RESPONSES, json={**ASKED, "background": True})
    compare_heads(load(MORE)["store/background"], queued)
    assert not differences(json.loads(load(MORE)["store/background"].body), queued.json())
    ended = await ended_one(client, queued.json()["id"])
    assert not differences(json.loads(load(MORE)["store/background_get_later"].body), ended)
    assert ended["status"] == "completed"


async def ended_one(client: httpx.AsyncClient, name: str) -> Body:
    async with asyncio.timeout(30):
        while True:
            found: Body = (await client.get(f"{RESPONSES}/{name}")).json()
            if found["status"] not in ("queued", "in_progress"):
                return found


async def test_simulator_cancels_what_runs_in_the_background() -> None:
    config = SimulatorConfig(responses_store=True, itl=0.05)
    body = {**ASKED, "background": True, "ignore_eos": True}
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        queued = await post(client, RESPONSES, body)
        cancelled = await client.post(f"{RESPONSES}/{queued['id']}/cancel")
        assert not differences(
            json.loads(load(MORE)["store/background_cancel"].body), cancelled.json()
        )
        assert cancelled.json()["status"] == "cancelled"
        await sim.idle()
        again = await client.post(f"{RESPONSES}/{queued['id']}/cancel")
        assert again.status_code == 400
        assert "synchronous" in again.text


async def test_simulator_goes_on_with_a_background_stream_that_its_caller_left() -> None:
    config = SimulatorConfig(responses_store=True, itl=0.005)
    body = {**ASKED, "background": True, "stream": True}
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        async with client.stream("POST", RESPONSES, json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            name = json.loads((await anext(lines)).removeprefix("data: "))["response"]["id"]
        path = f"{RESPONSES}/{name}?stream=true"
        rest = events_of((await client.get(f"{path}&starting_after=8")).text)
        whole = events_of((await client.get(path)).text)
    assert [one["sequence_number"] for one in rest] == list(range(9, len(whole)))
    assert rest == whole[9:]
    assert whole[-1]["type"] == "response.completed"


async def test_simulator_breaks_off_where_the_engine_does(client: httpx.AsyncClient) -> None:
    found = await post(client, RESPONSES, ASKED)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(f"{RESPONSES}/{found['id']}?stream=true")
    headers = {"x-sim-fault": "error-event:5"}
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(RESPONSES, json={**ASKED, "stream": True}, headers=headers)


async def test_simulator_leaves_nothing_in_the_background() -> None:
    before = asyncio.all_tasks()
    config = SimulatorConfig(responses_store=True, itl=1.0)
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        await post(client, RESPONSES, {**ASKED, "background": True})
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "body.input"),
        ({**ASKED, "model": "x"}, 404, "does not exist"),
        ({**ASKED, "max_output_tokens": 5000}, 400, "max_output_tokens=5000"),
        ({**ASKED, "truncation": "some"}, 400, "truncation"),
        ({**ASKED, "prompt": {"id": "p"}}, 400, "prompt"),
        ({"input": []}, 400, "no input"),
        ({"input": "x" * 9000}, 400, "maximum context"),
    ],
)
async def test_simulator_responses_refuse_what_they_cannot_carry(
    client: httpx.AsyncClient, body: Body, status: int, says: str
) -> None:
    for background in (False, True):
        answer = await client.post(RESPONSES, json={**body, "background": background})
        assert answer.status_code == status
        assert says in answer.json()["error"]["message"]
