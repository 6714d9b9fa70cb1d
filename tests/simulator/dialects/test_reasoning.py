"""What the model thinks is told from what it says, plain and streamed, as recorded from vLLM."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from simulator.dialects.recorded_shape import compare, recorded, replay
from simulator.dialects.test_tokens import CHAT, GENERATE, GREEDY, TOOLS, post, said
from support.records.vllm_recordings import MORE, load

from gateway.simulator import Simulator, SimulatorConfig

CONFIG = SimulatorConfig(model="tiny", scale_out=True, reasoning=True)

CHATS = [name for name in recorded("thinking") if load(MORE)[name].path == CHAT]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with Simulator(CONFIG) as sim, httpx.AsyncClient(base_url=sim.url) as one:
        yield one


@pytest.mark.parametrize("name", CHATS)
async def test_simulator_thinks_in_the_recorded_shape(name: str) -> None:
    async with Simulator(CONFIG) as sim:
        compare(*await replay(sim, name, changes={"max_tokens": 400}))


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["words", "tools"])
async def test_simulator_streams_the_thoughts_that_it_returns_at_once(
    client: httpx.AsyncClient, tools: object
) -> None:
    body = {**GREEDY, "tools": tools}
    plain = (await post(client, CHAT, body))["choices"][0]
    answer = await client.post(CHAT, json={**body, "stream": True})
    deltas = [
        json.loads(frame.removeprefix("data: "))["choices"][0]["delta"]
        for frame in answer.text.split("\n\n")[:-2]
    ]
    thoughts = "".join(delta.get("reasoning", "") for delta in deltas)
    assert thoughts == plain["message"]["reasoning"]
    assert thoughts.startswith("\nThe ")
    content = "".join(delta.get("content") or "" for delta in deltas)
    assert content.strip() == (plain["message"]["content"] or "").strip()


async def test_simulator_counts_the_tokens_of_thoughts(client: httpx.AsyncClient) -> None:
    found = await post(client, CHAT, {**GREEDY, "return_token_ids": True})
    (choice,) = found["choices"]
    thoughts = await post(client, "/tokenize", {"prompt": choice["message"]["reasoning"]})
    assert found["usage"]["completion_tokens_details"] == {"reasoning_tokens": thoughts["count"]}
    assert choice["token_ids"][1 : 1 + thoughts["count"]] == thoughts["tokens"]


async def test_simulator_that_is_cut_short_while_it_thinks_says_nothing(
    client: httpx.AsyncClient,
) -> None:
    found = await post(client, CHAT, {**GREEDY, "max_tokens": 5})
    (choice,) = found["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning"]


async def test_simulator_thinks_the_same_if_it_is_given_a_rendered_prompt(
    client: httpx.AsyncClient,
) -> None:
    body = {**GREEDY, "tools": TOOLS}
    chat = await post(client, CHAT, {**body, "return_token_ids": True})
    found = await post(client, GENERATE, await post(client, f"{CHAT}/render", body))
    assert found["choices"][0]["token_ids"] == chat["choices"][0]["token_ids"]
    asked = {"generate_response": found, "chat_request": body}
    (derendered,) = (await post(client, f"{CHAT}/derender", asked))["choices"]
    assert said(derendered) == said(chat["choices"][0])
    assert derendered["message"]["reasoning"] == chat["choices"][0]["message"]["reasoning"]
