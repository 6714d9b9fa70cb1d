"""What the simulator generates, and that plain answers and streams say the same."""

import json
from typing import Any

import httpx
import pytest

from gateway.simulator import Simulator, SimulatorConfig
from gateway.simulator.engine.tokens import EOS, decode, encode

Body = dict[str, Any]

MESSAGES = [{"role": "user", "content": "Tell me about the harbour."}]
NOW = {"type": "function", "function": {"name": "now"}}


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


async def test_simulator_repeats_a_response_for_the_same_seed(client: httpx.AsyncClient) -> None:
    first = await chat(client, seed=7, max_tokens=30, return_token_ids=True)
    again = await chat(client, seed=7, max_tokens=30, return_token_ids=True)
    other = await chat(client, seed=8, max_tokens=30, return_token_ids=True)
    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


async def test_simulator_choices_of_one_seed_differ_except_at_temperature_0(
    client: httpx.AsyncClient,
) -> None:
    sampled = await chat(client, seed=7, n=2, max_tokens=30)
    greedy = await chat(client, temperature=0, n=2, max_tokens=30)
    one, other = (choice["message"]["content"] for choice in sampled["choices"])
    assert one != other
    one, other = (choice["message"]["content"] for choice in greedy["choices"])
    assert one == other


async def test_simulator_varies_responses_without_a_seed(client: httpx.AsyncClient) -> None:
    answers = [await complete(client, max_tokens=30) for _ in range(3)]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 3


async def test_simulator_repeats_unseeded_responses_with_a_configured_seed() -> None:
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


async def test_simulator_at_temperature_0_depends_on_the_prompt_alone(
    client: httpx.AsyncClient,
) -> None:
    first = await complete(client, temperature=0)
    again = await complete(client, temperature=0, seed=5)
    other = await complete(client, temperature=0, prompt="The ferry")
    assert first["choices"] == again["choices"]
    assert first["choices"] != other["choices"]


async def test_simulator_is_greedy_with_top_k_1_or_a_tiny_top_p(client: httpx.AsyncClient) -> None:
    greedy = await complete(client, temperature=0)
    assert (await complete(client, top_k=1))["choices"] == greedy["choices"]
    assert (await complete(client, top_p=0.001))["choices"] == greedy["choices"]


async def test_simulator_writes_sentences(client: httpx.AsyncClient) -> None:
    content = (await chat(client, temperature=0))["choices"][0]["message"]["content"]
    assert content[0].isupper()
    assert content.endswith(".")


async def test_simulator_ends_the_token_ids_with_eos(client: httpx.AsyncClient) -> None:
    choice = (await chat(client, temperature=0, return_token_ids=True))["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    assert choice["token_ids"][-1] == EOS
    assert decode(choice["token_ids"][:-1]) == choice["message"]["content"]


async def test_simulator_generates_past_eos_with_ignore_eos_or_min_tokens(
    client: httpx.AsyncClient,
) -> None:
    ended = (await chat(client, temperature=0))["usage"]["completion_tokens"]
    ignoring = await chat(client, temperature=0, ignore_eos=True, max_tokens=ended + 50)
    assert ignoring["usage"]["completion_tokens"] == ended + 50
    least = await chat(client, temperature=0, min_tokens=ended + 5, return_token_ids=True)
    assert least["usage"]["completion_tokens"] > ended + 5
    assert EOS not in least["choices"][0]["token_ids"][: ended + 5]


async def test_simulator_applies_default_and_maximum_lengths(client: httpx.AsyncClient) -> None:
    completion = await complete(client, ignore_eos=True)
    assert completion["usage"]["completion_tokens"] == 16
    whole = await chat(client, ignore_eos=True)
    assert whole["usage"]["total_tokens"] == 2048
    clamped = await chat(client, ignore_eos=True, max_tokens=2040)
    assert clamped["usage"]["total_tokens"] == 2048


@pytest.mark.parametrize("include", [False, True])
async def test_simulator_cuts_the_text_but_not_the_ids_at_a_stop_string(
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


async def test_simulator_ends_the_response_at_a_stop_token(client: httpx.AsyncClient) -> None:
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
        {"tools": [NOW], "tool_choice": "required"},
        {"max_tokens": 9},
        {"allowed_token_ids": list(range(130, 256))},
    ],
)
async def test_simulator_chat_stream_adds_up_to_the_plain_response(
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


async def test_simulator_completion_stream_adds_up_to_the_plain_response(
    client: httpx.AsyncClient,
) -> None:
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
    assert plain["usage"]["completion_tokens"] == sum(
        len(choice["token_ids"]) for choice in plain["choices"]
    )
    assert events[-1]["usage"]["total_tokens"] == plain["usage"]["total_tokens"]


async def test_simulator_echoes_the_prompt_unless_token_ids_are_requested(
    client: httpx.AsyncClient,
) -> None:
    text = (await complete(client, echo=True, temperature=0))["choices"][0]["text"]
    alone = (await complete(client, echo=True, temperature=0, return_token_ids=True))["choices"][0]
    assert text == "The harbour" + alone["text"]


async def test_simulator_streams_continuous_usage(client: httpx.AsyncClient) -> None:
    events = await streamed_chat(
        client, seed=1, max_tokens=5, stream_options={"continuous_usage_stats": True}
    )
    counted = [event["usage"]["completion_tokens"] for event in events if event["choices"]]
    assert counted == sorted(counted)
    assert (counted[0], counted[-1]) == (0, 5)


async def test_simulator_streams_a_character_split_over_several_tokens(
    client: httpx.AsyncClient,
) -> None:
    said = "na\u00efve \U0001f30a \u2014 caf\u00e9"
    body = {"structured_outputs": {"choice": [said]}, "return_token_ids": True}
    events = await streamed_chat(client, **body)
    assert text_of(events) == said
    assert ids_of(events) == [*encode(said), EOS]
    silent = [one for one in choices(events) if one["delta"] == {} and one["token_ids"]]
    assert len(silent) > 4


async def test_simulator_never_shows_bytes_that_form_no_character(
    client: httpx.AsyncClient,
) -> None:
    body = {"allowed_token_ids": [3 + 0x80, 3 + 0xFF], "max_tokens": 6, "logprobs": True}
    choice = (await chat(client, **body, return_token_ids=True))["choices"][0]
    assert choice["message"]["content"] == ""
    assert len(choice["token_ids"]) == 6
    assert {one["token"] for one in choice["logprobs"]["content"]} == {""}


async def test_simulator_prompt_logprobs_equal_the_sampled_logprobs(
    client: httpx.AsyncClient,
) -> None:
    body = {"logprobs": 0, "return_token_ids": True, "temperature": 1.3, "max_tokens": 40}
    body["ignore_eos"] = True
    sampled = (await complete(client, **body))["choices"][0]
    ids = sampled["prompt_token_ids"] + sampled["token_ids"]
    scored = await complete(client, prompt=ids, max_tokens=1, prompt_logprobs=0)
    places = scored["choices"][0]["prompt_logprobs"]
    assert places[0] is None
    answer = zip(places, ids, strict=True)
    scores = [place[str(number)]["logprob"] for place, number in answer if place is not None]
    assert scores[-40:] == sampled["logprobs"]["token_logprobs"]


async def test_simulator_ranks_all_requested_alternatives(client: httpx.AsyncClient) -> None:
    choice = (await complete(client, prompt_logprobs=20, max_tokens=1))["choices"][0]
    for place in choice["prompt_logprobs"][1:]:
        ranked = sorted(place.values(), key=lambda one: one["rank"])
        assert [one["rank"] for one in ranked][:20] == list(range(1, 21))
        assert [one["logprob"] for one in ranked] == sorted(
            (one["logprob"] for one in ranked), reverse=True
        )
        assert len(place) in (20, 21)


async def test_simulator_detokenize_reverses_tokenize(client: httpx.AsyncClient) -> None:
    text = "Grüße vom Käpt'n — the end."
    tokens = (await client.post("/tokenize", json={"prompt": text})).json()
    assert tokens["count"] == len(tokens["tokens"])
    again = (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json()
    assert again == {"prompt": text}
    templated = (await client.post("/tokenize", json={"messages": MESSAGES})).json()
    asked = await chat(client, max_tokens=1, return_token_ids=True)
    assert templated["tokens"] == asked["prompt_token_ids"]
