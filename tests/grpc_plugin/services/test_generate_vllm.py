"""`Generate` in front of a real vLLM: `VLLM_URL=http://127.0.0.1:8000 pytest -m vllm`.

The server needs `--enable-auto-tool-choice`.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from gateway_plugins.grpc.services.control.abort import Abort
from gateway_plugins.grpc.services.generate.method import Generate
from gateway_plugins.grpc.status import Code
from grpc_plugin.services.test_control import aborted, gateway_of
from support.grpc.generations import heard
from support.grpc.in_process import MESSAGES, carried, message

from gateway import Gateway

URL = os.environ.get("VLLM_URL", "")

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not URL, reason="VLLM_URL does not name a running vLLM"),
]

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["yes", "no"]}},
    "required": ["a"],
    "additionalProperties": False,
}
NUMBERS = {
    "logprobs": {"sampled": True},
    "returned": {"token_ids": True, "prompt_token_ids": True},
}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with gateway_of(URL) as opened:
        yield opened


@pytest.fixture(scope="module")
def model() -> str:
    name: str = httpx.get(f"{URL}/v1/models").json()["data"][0]["id"]
    return name


def chat(model: str, **fields: Any) -> Any:
    request = message("GenerateRequest", model=model, **fields)
    request.messages.messages.add(role="user").parts.add(text="Count to five.")
    if not request.sampling.HasField("max_tokens"):
        request.sampling.max_tokens = 24
    request.sampling.seed = 3
    return request


async def generated(gateway: Gateway, request: Any) -> list[Any]:
    status, events = await carried(gateway, Generate(MESSAGES), request, "GenerateEvent")
    assert status.code is Code.OK, status
    return events


async def test_vllm_numbers_are_those_of_its_plain_response(gateway: Gateway, model: str) -> None:
    events = await generated(gateway, chat(model, **NUMBERS))
    body = {"model": model, "max_tokens": 24, "seed": 3, "logprobs": True, "return_token_ids": True}
    body["messages"] = [{"role": "user", "content": "Count to five."}]
    async with httpx.AsyncClient() as client:
        plain = (await client.post(f"{URL}/v1/chat/completions", json=body, timeout=60)).json()
    [choice], [said] = plain["choices"], heard(events).values()
    assert (said.text, said.ids) == (choice["message"]["content"], choice["token_ids"])
    assert said.logprobs == [one["logprob"] for one in choice["logprobs"]["content"]]
    assert list(events[0].start.prompt_token_ids) == plain["prompt_token_ids"]
    assert events[-1].usage.completion_tokens == len(said.ids)


async def test_vllm_takes_token_ids_and_has_logprobs_of_them(gateway: Gateway, model: str) -> None:
    ids = [46, 728, 334, 295]
    request = message("GenerateRequest", model=model, prompt_token_ids={"ids": ids}, **NUMBERS)
    request.logprobs.prompt = 2
    request.logprobs.top = 2
    request.sampling.max_tokens = 3
    start, prompt, delta, *_ = await generated(gateway, request)
    assert list(start.start.prompt_token_ids) == ids
    assert list(prompt.prompt_logprobs.has_logprob) == [False, True, True, True]
    assert [len(place.tokens) for place in prompt.prompt_logprobs.top] == [0, 2, 2, 2]
    assert len(delta.delta.token_ids) == len(delta.delta.logprobs) == len(delta.delta.top) == 3


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({"regex": "[ab]{3}"}, lambda text: re.fullmatch("[ab]{3}", text)),
        ({"choices": {"choices": ["alpha", "beta"]}}, lambda text: text in ("alpha", "beta")),
        ({"grammar": 'root ::= "yes" | "no"'}, lambda text: text in ("yes", "no")),
        ({"json_schema": json.dumps(SCHEMA).encode()}, lambda text: json.loads(text)["a"]),
        (
            {
                "structural_tag": json.dumps(
                    {
                        "type": "structural_tag",
                        "format": {
                            "type": "tag",
                            "begin": "<a>",
                            "content": {"type": "regex", "pattern": "[xy]{2}"},
                            "end": "</a>",
                        },
                    }
                ).encode()
            },
            lambda text: re.fullmatch("<a>[xy]{2}</a>", text),
        ),
    ],
    ids=["regex", "choices", "grammar", "json_schema", "structural_tag"],
)
async def test_vllm_answers_have_the_structure_that_was_asked_for(
    gateway: Gateway, model: str, fields: Mapping[str, Any], matches: Any
) -> None:
    request = chat(model, sampling={"max_tokens": 400, "temperature": 1.0}, **fields)
    [said] = heard(await generated(gateway, request)).values()
    assert matches(said.text), said.text


async def test_vllm_makes_several_choices_and_named_calls(gateway: Gateway, model: str) -> None:
    several = chat(model, **NUMBERS)
    several.sampling.n = 3
    assert sorted(heard(await generated(gateway, several))) == [0, 1, 2]
    tool = {"name": "now", "parameters": json.dumps(SCHEMA).encode()}
    request = chat(model, tools=[tool], tool_choice="now", sampling={"max_tokens": 400})
    [said] = heard(await generated(gateway, request)).values()
    name, arguments = said.tools[0]
    assert name == "now"
    assert said.finish
    json.loads(arguments)  # a random model may write less than the schema wants


async def test_vllm_stops_what_is_aborted(gateway: Gateway, model: str) -> None:
    request = chat(model, sampling={"max_tokens": 1900, "ignore_eos": True})
    request.meta.request_id = "long"
    running = asyncio.create_task(carried(gateway, Generate(MESSAGES), request, "GenerateEvent"))
    async with httpx.AsyncClient(base_url=URL) as client:
        await running_requests(client, 1)
        assert (await aborted(Abort(gateway, MESSAGES), "long"))[1] == [True]
        status, events = await running
        assert (status.code, status.reason) == (Code.CANCELLED, "aborted")
        assert "usage" not in {event.WhichOneof("event") for event in events}
        await running_requests(client, 0)


async def running_requests(client: httpx.AsyncClient, wanted: int) -> None:
    """Wait until vLLM says that it runs so many requests."""
    async with asyncio.timeout(20):
        while True:
            text = (await client.get("/metrics")).text
            [count] = re.findall(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", text, re.MULTILINE)
            if float(count) == wanted:
                return
