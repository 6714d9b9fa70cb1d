"""What the simulator generates, and that plain answers and streams say the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from gateway.simulator import Faults, Simulator, SimulatorConfig, create_simulator
from gateway.simulator.tokens import EOS, decode, encode

Body = dict[str, Any]

MESSAGES = [{"role": "user", "content": "Tell me about the harbour."}]
WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
TOOLS = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "now"}},
]


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=sim.url) as opened:
        yield opened


async def chat(client: httpx.AsyncClient, **body: Any) -> Body:
    answer = await client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


async def complete(client: httpx.AsyncClient, **body: Any) -> Body:
    answer = await client.post("/v1/completions", json={"prompt": "The harbour", **body})
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


async def streamed(client: httpx.AsyncClient, path: str, **body: Any) -> list[Body]:
    """The events of a stream that includes its usage, without `[DONE]`."""
    options = {"include_usage": True, **body.pop("stream_options", {})}
    body |= {"stream": True, "stream_options": options}
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def streamed_chat(client: httpx.AsyncClient, **body: Any) -> list[Body]:
    return await streamed(client, "/v1/chat/completions", **{"messages": MESSAGES, **body})


def choices(events: list[Body], index: int = 0) -> list[Body]:
    return [one for event in events for one in event["choices"] if one["index"] == index]


def text_of(events: list[Body], index: int = 0) -> str:
    return "".join(one["delta"].get("content") or "" for one in choices(events, index))


def ids_of(events: list[Body], index: int = 0) -> list[int]:
    return [number for one in choices(events, index) for number in one.get("token_ids") or ()]


def logprobs_of(events: list[Body], index: int = 0) -> list[Body]:
    return [
        one
        for choice in choices(events, index)
        for one in (choice["logprobs"] or {}).get("content", [])
    ]


async def test_equal_seeds_give_equal_answers(client: httpx.AsyncClient) -> None:
    first = await chat(client, seed=7, max_tokens=30, return_token_ids=True)
    again = await chat(client, seed=7, max_tokens=30, return_token_ids=True)
    other = await chat(client, seed=8, max_tokens=30, return_token_ids=True)
    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


async def test_choices_of_one_seed_differ_but_for_temperature_0(client: httpx.AsyncClient) -> None:
    sampled = await chat(client, seed=7, n=2, max_tokens=30)
    greedy = await chat(client, temperature=0, n=2, max_tokens=30)
    one, other = (choice["message"]["content"] for choice in sampled["choices"])
    assert one != other
    one, other = (choice["message"]["content"] for choice in greedy["choices"])
    assert one == other


async def test_without_a_seed_answers_differ(client: httpx.AsyncClient) -> None:
    answers = [await complete(client, max_tokens=30) for _ in range(3)]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 3


async def test_the_configured_seed_makes_unseeded_answers_repeatable() -> None:
    found = []
    for _ in range(2):
        async with (
            Simulator(SimulatorConfig(seed=3)) as sim,
            httpx.AsyncClient(base_url=sim.url) as client,
        ):
            answers = [await complete(client, max_tokens=30) for _ in range(2)]
            found.append([answer["choices"][0]["text"] for answer in answers])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


async def test_temperature_0_depends_on_the_prompt_alone(client: httpx.AsyncClient) -> None:
    first = await complete(client, temperature=0)
    again = await complete(client, temperature=0, seed=5)
    other = await complete(client, temperature=0, prompt="The ferry")
    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


async def test_top_k_1_is_greedy(client: httpx.AsyncClient) -> None:
    greedy = await complete(client, temperature=0)
    assert (await complete(client, top_k=1))["choices"] == greedy["choices"]
    assert (await complete(client, top_p=0.001))["choices"] == greedy["choices"]


async def test_words_come_out_as_sentences(client: httpx.AsyncClient) -> None:
    content = (await chat(client, temperature=0))["choices"][0]["message"]["content"]
    assert content[0].isupper()
    assert content.endswith(".")


async def test_an_answer_ends_with_eos_among_its_ids(client: httpx.AsyncClient) -> None:
    choice = (await chat(client, temperature=0, return_token_ids=True))["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    assert choice["token_ids"][-1] == EOS
    assert decode(choice["token_ids"][:-1]) == choice["message"]["content"]


async def test_ignore_eos_and_min_tokens_go_past_the_end(client: httpx.AsyncClient) -> None:
    ended = (await chat(client, temperature=0))["usage"]["completion_tokens"]
    ignoring = await chat(client, temperature=0, ignore_eos=True, max_tokens=ended + 50)
    assert ignoring["usage"]["completion_tokens"] == ended + 50
    least = await chat(client, temperature=0, min_tokens=ended + 5, return_token_ids=True)
    assert least["usage"]["completion_tokens"] > ended + 5
    assert EOS not in least["choices"][0]["token_ids"][: ended + 5]


async def test_default_lengths(client: httpx.AsyncClient) -> None:
    completion = await complete(client, ignore_eos=True)
    assert completion["usage"]["completion_tokens"] == 16
    whole = await chat(client, ignore_eos=True)
    assert whole["usage"]["total_tokens"] == 2048
    clamped = await chat(client, ignore_eos=True, max_tokens=2040)
    assert clamped["usage"]["total_tokens"] == 2048


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_ends_the_text_and_leaves_the_ids(
    client: httpx.AsyncClient, include: bool
) -> None:
    free = await complete(client, temperature=0, max_tokens=20, return_token_ids=True)
    text = free["choices"][0]["text"]
    stop = text[20:26]
    stopped = await complete(
        client,
        temperature=0,
        max_tokens=20,
        return_token_ids=True,
        stop=["nowhere", stop],
        include_stop_str_in_output=include,
    )
    choice = stopped["choices"][0]
    end = text.index(stop) + len(stop) * include
    assert choice["text"] == text[:end]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
    assert choice["token_ids"] == free["choices"][0]["token_ids"][: len(choice["token_ids"])]
    assert stop in decode(choice["token_ids"])
    assert stopped["usage"]["completion_tokens"] == len(choice["token_ids"])


async def test_a_stop_token_ends_the_answer(client: httpx.AsyncClient) -> None:
    free = (await complete(client, temperature=0, return_token_ids=True))["choices"][0]
    stop = free["token_ids"][4]
    assert stop not in free["token_ids"][:4]
    choice = (await complete(client, temperature=0, return_token_ids=True, stop_token_ids=[stop]))[
        "choices"
    ][0]
    assert choice["token_ids"] == free["token_ids"][:5]
    assert choice["text"] == decode(free["token_ids"][:4])
    assert choice["stop_reason"] == stop


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3},
        {"stop": [" and", "the "]},
        {"stop": "zzz"},
        {"tools": TOOLS, "tool_choice": "required"},
        {"max_tokens": 9, "tools": TOOLS},
        {"allowed_token_ids": list(range(130, 256))},
    ],
)
async def test_a_stream_adds_up_to_the_plain_answer(
    client: httpx.AsyncClient, more: Body, interval: int
) -> None:
    body = {"seed": 11, "max_tokens": 90, "logprobs": True, "top_logprobs": 2, **more}
    body["return_token_ids"] = True
    plain = await chat(client, **body)
    events = await streamed_chat(client, **body, stream_interval=interval)
    assert events[-1]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    assert events[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    for choice in plain["choices"]:
        index = choice["index"]
        assert ids_of(events, index) == choice["token_ids"]
        assert logprobs_of(events, index) == choice["logprobs"]["content"]
        assert len(choice["token_ids"]) == len(choice["logprobs"]["content"])
        if "tool_calls" not in choice["message"]:
            assert text_of(events, index) == choice["message"]["content"]
        ends = choices(events, index)[-1]
        assert ends["finish_reason"] == choice["finish_reason"]
        assert ends["stop_reason"] == choice["stop_reason"]
    assert plain["usage"]["completion_tokens"] == sum(
        len(choice["token_ids"]) for choice in plain["choices"]
    )


async def test_completions_streamed_add_up_too(client: httpx.AsyncClient) -> None:
    body = {"prompt": ["The ferry", "A kettle"], "n": 2, "seed": 5, "logprobs": 2, "echo": True}
    body["return_token_ids"] = True
    plain = await complete(client, **body)
    events = await streamed(client, "/v1/completions", **body)
    for choice in plain["choices"]:
        parts = choices(events, choice["index"])
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert ids_of(events, choice["index"]) == choice["token_ids"]
        for name, values in choice["logprobs"].items():
            assert [one for part in parts for one in part["logprobs"][name]] == values
        assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        echoed = len(choice["prompt_token_ids"])
        assert len(choice["logprobs"]["tokens"]) == echoed + len(choice["token_ids"])
    assert plain["usage"]["completion_tokens"] == 64
    assert events[-1]["usage"]["total_tokens"] == plain["usage"]["total_tokens"]


async def test_echo_shows_the_prompt_unless_ids_are_asked_for(client: httpx.AsyncClient) -> None:
    text = (await complete(client, echo=True, temperature=0))["choices"][0]["text"]
    alone = (await complete(client, echo=True, temperature=0, return_token_ids=True))["choices"][0]
    assert text == "The harbour" + alone["text"]


async def test_usage_runs_along(client: httpx.AsyncClient) -> None:
    events = await streamed_chat(
        client, seed=1, max_tokens=5, stream_options={"continuous_usage_stats": True}
    )
    counted = [event["usage"]["completion_tokens"] for event in events if event["choices"]]
    assert counted == sorted(counted)
    assert (counted[0], counted[-1]) == (0, 5)


async def test_tokens_that_end_inside_a_character(client: httpx.AsyncClient) -> None:
    said = "na\u00efve \U0001f30a \u2014 caf\u00e9"
    body = {"structured_outputs": {"choice": [said]}, "return_token_ids": True}
    events = await streamed_chat(client, **body)
    assert text_of(events) == said
    assert ids_of(events) == [*encode(said), EOS]
    silent = [one for one in choices(events) if one["delta"] == {} and one["token_ids"]]
    assert len(silent) > 4


async def test_what_is_no_character_is_never_shown(client: httpx.AsyncClient) -> None:
    body = {"allowed_token_ids": [3 + 0x80, 3 + 0xFF], "max_tokens": 6, "logprobs": True}
    choice = (await chat(client, **body, return_token_ids=True))["choices"][0]
    assert choice["message"]["content"] == ""
    assert len(choice["token_ids"]) == 6
    assert {one["token"] for one in choice["logprobs"]["content"]} == {""}


async def test_scoring_gives_the_logprobs_of_sampling(client: httpx.AsyncClient) -> None:
    body = {"logprobs": 0, "return_token_ids": True, "temperature": 1.3, "max_tokens": 40}
    sampled = (await complete(client, **body))["choices"][0]
    ids = sampled["prompt_token_ids"] + sampled["token_ids"]
    scored = await complete(client, prompt=ids, max_tokens=1, prompt_logprobs=0)
    places = scored["choices"][0]["prompt_logprobs"]
    assert places[0] is None
    answer = zip(places, ids, strict=True)
    scores = [place[str(number)]["logprob"] for place, number in answer if place is not None]
    assert scores[-40:] == sampled["logprobs"]["token_logprobs"]


async def test_alternatives_are_ranked_and_complete(client: httpx.AsyncClient) -> None:
    choice = (await complete(client, prompt_logprobs=20, max_tokens=1))["choices"][0]
    for place in choice["prompt_logprobs"][1:]:
        ranked = sorted(place.values(), key=lambda one: one["rank"])
        assert [one["rank"] for one in ranked][:20] == list(range(1, 21))
        assert [one["logprob"] for one in ranked] == sorted(
            (one["logprob"] for one in ranked), reverse=True
        )
        assert len(place) in (20, 21)


async def test_tool_calls_merge_into_json(client: httpx.AsyncClient) -> None:
    several = 0
    for seed in range(12):
        body = {"tools": TOOLS, "tool_choice": "required", "seed": seed}
        plain = (await chat(client, **body))["choices"][0]
        events = await streamed_chat(client, **body)
        calls: dict[int, Body] = {}
        for part in choices(events):
            for call in part["delta"].get("tool_calls", ()):
                merged = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                merged["name"] += call["function"].get("name", "")
                merged["arguments"] += call["function"].get("arguments", "")
        assert list(calls.values()) == [call["function"] for call in plain["message"]["tool_calls"]]
        for call in calls.values():
            arguments = json.loads(call["arguments"])
            if call["name"] == "get_weather":
                assert arguments["city"] in ("Oslo", "Rome")
                assert isinstance(arguments["days"], int)
        several += len(calls) > 1
        assert plain["finish_reason"] == choices(events)[-1]["finish_reason"] == "tool_calls"
    assert several


@pytest.mark.parametrize(
    ("choice", "finish_reason", "content"),
    [
        ("auto", "tool_calls", None),
        ("required", "tool_calls", ""),
        ({"type": "function", "function": {"name": "now"}}, "stop", ""),
    ],
)
async def test_finish_reasons_of_tool_calls(
    client: httpx.AsyncClient, choice: object, finish_reason: str, content: str | None
) -> None:
    answer = (await chat(client, tools=TOOLS, tool_choice=choice))["choices"][0]
    assert answer["finish_reason"] == finish_reason
    assert answer["message"]["content"] == content
    assert answer["message"]["tool_calls"]


async def test_tools_are_not_called_when_none_or_when_a_result_is_there(
    client: httpx.AsyncClient,
) -> None:
    answers = [
        await chat(client, tools=TOOLS, tool_choice="none"),
        await chat(client, tools=TOOLS, messages=[*MESSAGES, {"role": "tool", "content": "9 °C"}]),
    ]
    for answer in answers:
        assert "tool_calls" not in answer["choices"][0]["message"]
        assert answer["choices"][0]["message"]["content"]


async def test_a_tool_call_cut_short_is_text(client: httpx.AsyncClient) -> None:
    body = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 12}
    answer = (await chat(client, **body))["choices"][0]
    assert answer["finish_reason"] == "length"
    assert answer["message"]["content"].startswith("<tool_call>")
    assert "tool_calls" not in answer["message"]


async def test_an_answer_in_a_given_format_fits_it(client: httpx.AsyncClient) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"const": "boat"},
            "sails": {"type": "integer", "minimum": 1, "maximum": 4},
            "crew": {"type": "array", "items": {"$ref": "#/$defs/sailor"}},
            "home": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "length": {"type": "number"},
            "afloat": {"type": ["boolean", "null"]},
        },
        "$defs": {"sailor": {"type": "object", "properties": {"name": {"type": "string"}}}},
    }
    answer = await chat(
        client, response_format={"type": "json_schema", "json_schema": {"schema": schema}}
    )
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert list(found) == list(schema["properties"])
    assert found["kind"] == "boat"
    assert 1 <= found["sails"] <= 4
    assert isinstance(found["crew"][0]["name"], str)
    assert isinstance(found["home"], str)
    assert isinstance(found["length"], float)
    assert isinstance(found["afloat"], bool)


async def test_tokenize_and_detokenize(client: httpx.AsyncClient) -> None:
    text = "Grüße vom Käpt'n — the end."
    tokens = (await client.post("/tokenize", json={"prompt": text})).json()
    assert tokens["count"] == len(tokens["tokens"])
    again = (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json()
    assert again == {"prompt": text}
    templated = (await client.post("/tokenize", json={"messages": MESSAGES})).json()
    asked = await chat(client, max_tokens=1, return_token_ids=True)
    assert templated["tokens"] == asked["prompt_token_ids"]


async def test_load_and_metrics_tell_what_is_in_flight() -> None:
    async with (
        Simulator(SimulatorConfig(model='a "sim"')) as sim,
        httpx.AsyncClient(base_url=sim.url) as client,
    ):
        served = await complete(client)
        waiting = asyncio.create_task(
            client.post("/v1/completions", json={"prompt": "a"}, headers={"x-sim-ttft": "3600"})
        )
        async with client.stream(
            "POST",
            "/v1/completions",
            json={"prompt": "abc def", "stream": True},
            headers={"x-sim-itl": "3600"},
        ) as running:
            async for _ in running.aiter_bytes():
                break
            metrics = await metrics_of(client)
            load = (await client.get("/load")).json()
        waiting.cancel()
        await sim.idle()
    usage = served["usage"]
    assert load == {"server_load": 2}
    assert metrics["vllm:num_requests_running"] == 1
    assert metrics["vllm:num_requests_waiting"] == 1
    assert 0 < metrics["vllm:kv_cache_usage_perc"] < 0.01
    assert metrics["vllm:prompt_tokens_total"] > usage["prompt_tokens"]
    assert metrics["vllm:generation_tokens_total"] == usage["completion_tokens"] + 1
    assert metrics["vllm:request_success_total"] == 1
    assert (sim.stats.served, sim.stats.aborted, sim.stats.in_flight) == (1, 2, 0)


async def metrics_of(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(r'{engine="0",model_name="a \"sim\""}' in line for line in lines)
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"version": "0.32.0"}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/chat/completions", {"messages": "hi"}, 400, "Input should be a valid list"),
        ("/v1/chat/completions", {"messages": [3]}, 400, "'loc': 'body.messages.0'"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "temperature": "hot"},
            400,
            "float_parsing",
        ),
        ("/v1/chat/completions", {"messages": MESSAGES, "stream": "often"}, 400, "bool_parsing"),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "top_p": 1.5},
            400,
            "top_p must be in (0, 1]",
        ),
        (
            "/v1/chat/completions",
            {"messages": MESSAGES, "tools": TOOLS, "tool_choice": {"function": {"name": "fly"}}},
            400,
            "does not match any",
        ),
        ("/v1/completions", {"prompt": ["a", ""]}, 400, "at least one prompt"),
        ("/v1/completions", {"prompt": ["a", 1]}, 400, "Input should be a valid list"),
        ("/v1/completions", {"prompt": "a", "allowed_token_ids": [5000]}, 400, "out-of-vocab"),
        ("/tokenize", {}, 400, "Either prompt or messages"),
        ("/detokenize", {"tokens": [1, -3]}, 400, "body.tokens.1"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "`other` does not exist"),
    ],
)
async def test_refusals_beyond_the_recorded_ones(
    client: httpx.AsyncClient, path: str, body: Body, status: int, says: str
) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


async def test_the_openai_client_chats(sim: Simulator) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="any") as client:
        plain = await client.chat.completions.create(model="sim", messages=messages, seed=4)
        stream = await client.chat.completions.create(
            model="sim", messages=messages, seed=4, stream=True
        )
        parts = [part async for part in stream]
        completion = await client.completions.create(model="sim", prompt="The ferry", max_tokens=5)
    said = "".join(part.choices[0].delta.content or "" for part in parts)
    assert said == plain.choices[0].message.content
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


async def test_the_openai_client_runs_an_agents_loop(sim: Simulator) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Weather?"}]
    tools: list[ChatCompletionToolParam] = [
        {
            "type": "function",
            "function": {"name": "get_weather", "parameters": WEATHER["parameters"]},
        }  # type: ignore[typeddict-item]
    ]
    async with openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="any") as client:
        async with client.chat.completions.stream(
            model="sim", messages=messages, tools=tools
        ) as stream:
            asked = (await stream.get_final_completion()).choices[0]
        assert asked.finish_reason == "tool_calls"
        (call,) = asked.message.tool_calls or []
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
        messages.append(asked.message.model_dump(exclude_none=True))  # type: ignore[arg-type]
        messages.append({"role": "tool", "tool_call_id": call.id or "", "content": "9 degrees"})
        answer = await client.chat.completions.create(model="sim", messages=messages, tools=tools)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content


async def test_the_application_runs_on_any_asgi_server() -> None:
    app = create_simulator(SimulatorConfig(model="tiny"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
        assert (await complete(client))["model"] == "tiny"
        with pytest.raises(RuntimeError, match="use Simulator or serve"):
            await client.post(
                "/v1/completions", json={"prompt": "a"}, headers={"x-sim-fault": "reset-before"}
            )


async def test_nothing_is_left_behind() -> None:
    async with Simulator(SimulatorConfig(ttft=3600)) as sim:
        async with httpx.AsyncClient(base_url=sim.url) as client:
            call = asyncio.create_task(client.post("/v1/completions", json={"prompt": "a"}))
            idle = asyncio.create_task(client.get("/health"))
            await idle
            async with httpx.AsyncClient(
                base_url=sim.url, headers={"x-sim-fault": "hang"}
            ) as other:
                hung = asyncio.create_task(other.get("/health"))
                await client.get("/health")
                assert sim.stats.in_flight == 1
                await sim.__aexit__(None, None, None)
                results = await asyncio.gather(call, hung, return_exceptions=True)
        assert all(isinstance(result, httpx.HTTPError) for result in results)
        assert sim.stats.connections == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        async with httpx.AsyncClient(base_url=sim.url) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/health")


@pytest.mark.parametrize("wrong", [{"ttft": -1.0}, {"itl": -0.1}, {"max_model_len": 1}])
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"negative|at least"):
        SimulatorConfig(**wrong)


def test_faults_are_part_of_the_configuration() -> None:
    assert SimulatorConfig(faults=Faults.parse("refuse")).faults.refuses
