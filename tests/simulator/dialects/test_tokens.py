"""Ids in and ids out: the same tokens as the dialect's own call, in every way there is."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from simulator.test_simulator import NOW
from simulator.test_simulator_tools import WEATHER

from gateway.simulator import Simulator, SimulatorConfig

Body = dict[str, Any]

CONFIG = SimulatorConfig(scale_out=True, development=True)
HELLO = [{"role": "user", "content": "Hello there, what is the weather?"}]
TOOLS = [{"type": "function", "function": WEATHER}, NOW]
GREEDY: Body = {"messages": HELLO, "temperature": 0}
GENERATE = "/inference/v1/generate"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with Simulator(CONFIG) as sim, httpx.AsyncClient(base_url=sim.url) as one:
        yield one


async def post(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def events(client: httpx.AsyncClient, body: Mapping[str, Any]) -> list[Body]:
    answer = await client.post(GENERATE, json={**body, "stream": True})
    *frames, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


ASKED: dict[str, Body] = {
    "words": GREEDY,
    "seed": {"messages": HELLO, "seed": 7, "temperature": 1, "top_p": 0.9, "n": 2},
    "logprobs": {**GREEDY, "logprobs": True, "top_logprobs": 2},
    "stop": {**GREEDY, "stop": [" the"], "min_tokens": 4},
    "tools": {**GREEDY, "tools": TOOLS},
    "tools, seed": {"messages": HELLO, "tools": TOOLS, "seed": 3},
    "required": {**GREEDY, "tools": TOOLS, "tool_choice": "required"},
    "named": {
        **GREEDY,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "now"}},
    },
    "no tools": {**GREEDY, "tools": TOOLS, "tool_choice": "none"},
    "after a tool": {
        "temperature": 0,
        "tools": TOOLS,
        "messages": [*HELLO, {"role": "tool", "tool_call_id": "1", "content": "cold"}],
    },
    "continued": {
        **GREEDY,
        "tools": TOOLS,
        "messages": [*HELLO, {"role": "assistant", "content": "The harbour"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "json": {**GREEDY, "response_format": {"type": "json_object"}},
}


@pytest.mark.parametrize("asked", ASKED)
async def test_simulator_generates_from_a_rendered_request_what_chat_generates(
    client: httpx.AsyncClient, asked: str
) -> None:
    body = {**ASKED[asked], "max_tokens": 120}
    chat = await post(client, CHAT, {**body, "return_token_ids": True})
    rendered = await post(client, f"{CHAT}/render", body)
    assert rendered["token_ids"] == chat["prompt_token_ids"]
    found = await post(client, GENERATE, rendered)
    for one, other in zip(found["choices"], chat["choices"], strict=True):
        assert one["token_ids"] == other["token_ids"]
        assert one["stop_reason"] == other["stop_reason"]
        if body.get("logprobs"):
            ours = [entry["logprob"] for entry in one["logprobs"]["content"]]
            assert ours == [entry["logprob"] for entry in other["logprobs"]["content"]]
    derendered = await post(
        client,
        f"{CHAT}/derender",
        {"generate_response": found, "chat_request": body, "prompt_tokens": 5},
    )
    for one, other in zip(derendered["choices"], chat["choices"], strict=True):
        # Nobody tells derender of the stop string, which is among the ids.
        assert said(one) == said(other) or (asked == "stop" and said(one)[0] > said(other)[0])
    assert derendered["usage"]["prompt_tokens"] == 5


async def test_simulator_goes_on_with_the_last_message_if_asked(client: httpx.AsyncClient) -> None:
    body = {**ASKED["continued"], "max_tokens": 3, "return_token_ids": True}
    found = await post(client, CHAT, body)
    text = (await post(client, "/detokenize", {"tokens": found["prompt_token_ids"]}))["prompt"]
    assert text.endswith("<|im_start|>assistant\nThe harbour")
    refused = await client.post(CHAT, json={**body, "add_generation_prompt": True})
    assert refused.status_code == 400
    assert "Cannot set both" in refused.text


def said(choice: Body) -> tuple[str, list[Body]]:
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["content"], calls


async def test_simulator_generates_from_rendered_prompts_what_completions_generates(
    client: httpx.AsyncClient,
) -> None:
    body = {"prompt": ["The harbour", "A ferry"], "max_tokens": 9, "temperature": 0}
    own = await post(client, "/v1/completions", {**body, "return_token_ids": True})
    rendered = await post(client, "/v1/completions/render", body)
    found = [await post(client, GENERATE, one) for one in rendered]
    ids = [one["choices"][0]["token_ids"] for one in found]
    assert ids == [choice["token_ids"] for choice in own["choices"]]
    back = await post(client, "/v1/completions/derender", {"generate_responses": found})
    assert [one["text"] for one in back["choices"]] == [one["text"] for one in own["choices"]]


async def test_simulator_derenders_a_stream_event_by_event(client: httpx.AsyncClient) -> None:
    body = {**GREEDY, "tools": TOOLS}
    chat = await post(client, CHAT, body)
    rendered = await post(client, f"{CHAT}/render", body)
    name, arguments, ids, finish = "", "", [], None
    state: Body = {}
    for event in await events(client, rendered):
        asked: Body = {"generate_chunk": event, "chat_request": body, "stream_state": state}
        asked |= {"stream": True, "prompt_token_ids": rendered["token_ids"]}
        found = await post(client, f"{CHAT}/derender", asked)
        state = found["stream_state"]
        for choice in found["chunk"]["choices"]:
            finish = choice["finish_reason"]
            for call in choice["delta"].get("tool_calls", ()):
                name += call["function"].get("name", "")
                arguments += call["function"].get("arguments", "")
                ids += [call["id"]] if "id" in call else []
    (function,) = [call["function"] for call in chat["choices"][0]["message"]["tool_calls"]]
    assert (name, arguments, finish) == (function["name"], function["arguments"], "tool_calls")
    assert state["last_tool_call_ids"] == ids
    assert state["tools_streamed"]


async def test_simulator_generate_streams_what_it_returns_at_once(
    client: httpx.AsyncClient,
) -> None:
    sampling = {"n": 3, "max_tokens": 8, "seed": 5, "logprobs": 1, "ignore_eos": True}
    body = {"token_ids": [1, 80, 90, 2], "sampling_params": sampling, "return_token_ids": True}
    plain = await post(client, GENERATE, body)
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = await events(client, {**body, "stream_options": options})
    assert [chunk.get("prompt_token_ids") for chunk in chunks[:2]] == [body["token_ids"], None]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 4, "total_tokens": 28, "completion_tokens": 24}
    for choice in plain["choices"]:
        own = [
            one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]
        ]
        assert [number for one in own for number in one["token_ids"]] == choice["token_ids"]
        merged = [entry for one in own for entry in one["logprobs"]["content"]]
        assert merged == choice["logprobs"]["content"]
        assert own[-1]["weight_versions"] == [{"version": "default", "start": 0, "end": 8}]
    usages = [
        chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["choices"][0]["index"] == 1
    ]
    assert usages == list(range(1, 9))


async def test_simulator_generate_in_text_mode_has_texts_and_no_ids_in_logprobs(
    client: httpx.AsyncClient,
) -> None:
    sampling = {"max_tokens": 6, "temperature": 0, "logprobs": 0}
    body = {"token_ids": [1, 80], "sampling_params": sampling, "output_mode": "text"}
    (choice,) = (await post(client, GENERATE, body))["choices"]
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["text"]
    assert [list(entry) for entry in entries] == [["token", "logprob", "bytes", "top_logprobs"]] * 6
    assert all(len(entry["top_logprobs"]) == 1 for entry in entries)


async def test_simulator_generate_tells_each_weight_version_of_its_tokens() -> None:
    body = {"token_ids": [1, 80], "sampling_params": {"max_tokens": 40, "ignore_eos": True}}
    config = SimulatorConfig(scale_out=True, development=True, itl=0.002)
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        spans: list[Body] = []
        async with client.stream("POST", GENERATE, json={**body, "stream": True}) as answer:
            seen = 0
            async for line in answer.aiter_lines():
                if line in ("", "data: [DONE]"):
                    continue
                seen += 1
                if seen == 5:
                    await client.post("/update_weight_version", json={"new_version": "step-2"})
                spans = json.loads(line.removeprefix("data: "))["choices"][0]["weight_versions"]
    assert [span["version"] for span in spans] == ["default", "step-2"]
    assert spans[0]["start"] == 0
    assert spans[0]["end"] == spans[1]["start"] >= 5
    assert spans[1]["end"] == 40


async def test_simulator_aborts_a_generation_by_its_id() -> None:
    sampling = {"max_tokens": 2000, "ignore_eos": True, "logprobs": 0}
    body = {"token_ids": [1, 80], "sampling_params": sampling, "request_id": "mine"}
    config = SimulatorConfig(scale_out=True, itl=0.01)
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        async with client.stream("POST", GENERATE, json={**body, "stream": True}) as answer:
            lines = answer.aiter_lines()
            assert '"generate-tokens-mine"' in await anext(lines)
            ids = {"request_ids": ["generate-tokens-mine"]}
            aborted = await client.post("/inference/v1/abort_requests", json=ids)
            assert (aborted.status_code, aborted.content) == (200, b"")
            async with asyncio.timeout(30):
                rest = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
    (choice,) = rest[-1]["choices"]
    assert choice["finish_reason"] == "abort"
    assert choice["token_ids"] == []
    assert choice["logprobs"] == {"content": []}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        (GENERATE, {"token_ids": [], "sampling_params": {}}, 400, "at least 1 item"),
        (GENERATE, {"token_ids": [-1], "sampling_params": {}}, 400, "negative"),
        (GENERATE, {"token_ids": [1000], "sampling_params": {}}, 400, "out of vocabulary"),
        (GENERATE, {"token_ids": [1]}, 400, "body.sampling_params"),
        (GENERATE, {"token_ids": [1], "sampling_params": {"n": 300}}, 400, "max_num_seqs (256)"),
        (GENERATE, {"token_ids": [1], "sampling_params": {}, "model": "no"}, 404, "does not exist"),
        (GENERATE, {"token_ids": [1] * 2048, "sampling_params": {}}, 400, "maximum context"),
        ("/inference/v1/abort_requests", {}, 400, "Missing 'request_ids'"),
        (f"{CHAT}/derender", {"chat_request": GREEDY}, 400, "body.generate_response"),
        ("/v1/completions/derender", {"generate_responses": []}, 400, "must not be empty"),
        (
            "/v1/completions/derender",
            {"generate_responses": [{"request_id": "x", "choices": [{"index": 0}]}]},
            400,
            "empty or null token_ids",
        ),
        (
            f"{CHAT}/derender",
            {
                "stream": True,
                "chat_request": GREEDY,
                "prompt_token_ids": [1],
                "generate_chunk": {"request_id": "x", "choices": []},
                "stream_state": {"output_token_ids": [5], "output_chunk_lens": [2]},
            },
            400,
            "invalid stream_state",
        ),
    ],
)
async def test_simulator_refuses_ids_that_it_cannot_read(
    client: httpx.AsyncClient, path: str, body: Body, status: int, says: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == status
    assert says in answer.text


async def test_simulator_has_no_scale_out_unless_it_is_started_with_it() -> None:
    async with Simulator() as sim, httpx.AsyncClient(base_url=sim.url) as client:
        for path in (GENERATE, f"{CHAT}/render", "/v1/completions/derender"):
            answer = await client.post(path, json={})
            assert answer.status_code == 403
            assert answer.json()["error"]["type"] == "PermissionDeniedError"


async def test_simulator_tells_what_its_prefix_cache_held() -> None:
    config = SimulatorConfig(scale_out=True, prompt_tokens_details=True, development=True)
    body = {"token_ids": list(range(300, 340)), "sampling_params": {"max_tokens": 1}}
    async with Simulator(config) as sim, httpx.AsyncClient(base_url=sim.url) as client:
        found = [await post(client, GENERATE, body) for _ in range(2)]
        await client.post("/reset_prefix_cache")
        found.append(await post(client, GENERATE, body))
        longer = {**body, "token_ids": [*body["token_ids"], *range(300, 308)]}
        found += [await post(client, GENERATE, longer) for _ in range(2)]
    kept = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in found]
    assert kept == [0, 32, 0, 32, 32]
