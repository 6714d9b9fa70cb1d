"""Engines that fail at a part of token-in/token-out, and streams that are live."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways.capturing import capturing
from support.tito.agents import traces_of, with_tito
from support.workers.by_path import ByPath, said

from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of, sse

RENDER = "/v1/chat/completions/render"
DERENDER = "/v1/chat/completions/derender"
GENERATE = "/inference/v1/generate"
TOOLS = [{"type": "function", "function": {"name": "look"}}]
RENDERED = {"request_id": "chatcmpl-1", "token_ids": [1, 2, 3], "sampling_params": {"n": 1}}
FAILED = said({"error": {"message": "no such parser", "type": "x", "code": 500}}, "500 Oops")

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


def token(number: int, text: str) -> dict[str, Any]:
    entry = {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}
    return {"token_ids": [number], "text": text, "logprobs": {"content": [entry]}}


def generated(*texts: str, stream: bool) -> bytes:
    """Return a response of generate with a token for each text."""
    usage = {"prompt_tokens": 3, "completion_tokens": len(texts), "total_tokens": 3 + len(texts)}
    head = {"request_id": "generate-tokens-1", "prompt_token_ids": [1, 2, 3]}
    tokens = [token(10 + place, text) for place, text in enumerate(texts)]
    if stream:
        reasons = [None] * (len(texts) - 1) + ["stop"]
        events = [
            {**head, "choices": [{"index": 0, **one, "finish_reason": reason}]}
            for one, reason in zip(tokens, reasons, strict=True)
        ]
        end = {"request_id": "generate-tokens-1", "choices": [], "usage": usage}
        body = b"".join([*map(sse, events), sse(end), sse("[DONE]")])
        return answer_of(body, content_type="text/event-stream")
    content = [one["logprobs"]["content"][0] for one in tokens]
    choice = {
        "index": 0,
        "text": "".join(texts),
        "token_ids": [one["token_ids"][0] for one in tokens],
        "logprobs": {"content": content},
        "finish_reason": "stop",
    }
    return said({**head, "choices": [choice], "usage": usage})


async def ask(live: Live, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    asked = {"model": "sim", "messages": messages, **fields}
    return await live.client.post("/sessions/s/v1/chat/completions", json=asked)


async def before(
    gateway_for: GatewayFor, folder: Path, worker: ScriptedWorker, mode: str = "require"
) -> Live:
    live = await capturing(gateway_for, folder, workers=[worker.url])
    await with_tito(live, "s", mode)
    return live


def playing(answers: Mapping[str, bytes]) -> ScriptedWorker:
    return ScriptedWorker(ByPath(answers).script)


@BOTH
async def test_an_engine_that_cannot_parse_ends_the_call_with_an_error(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    answers = {RENDER: said(RENDERED), GENERATE: generated("So ", "<tool", stream=stream)}
    async with playing({**answers, DERENDER: FAILED}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        if stream:
            with pytest.raises(httpx.RemoteProtocolError):
                await ask(live, stream=True, tools=TOOLS)
        else:
            answer = await ask(live, tools=TOOLS)
            assert answer.status_code == 502
            assert "no such parser" in answer.json()["error"]["message"]
        [trace] = await traces_of(live, "s")
    assert trace.completion_token_ids == [10, 11]


@BOTH
async def test_text_without_a_mark_is_not_parsed(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    answers = {RENDER: said(RENDERED), GENERATE: generated("So ", "it is", stream=stream)}
    async with playing(answers if stream else {**answers, DERENDER: FAILED}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        answer = await ask(live, stream=stream, **({"tools": TOOLS} if stream else {}))
    assert answer.status_code == 200
    assert "it is" in answer.text
    assert 'token_ids":[1' not in answer.text


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        ("400 Bad Request", "a system message must come first", 400),
        ("404 Not Found", "Not Found", 502),
        ("500 Oops", "out of memory", 502),
    ],
)
async def test_what_the_engine_says_of_a_prompt_reaches_the_caller(
    gateway_for: GatewayFor, tmp_path: Path, status: str, message: str, code: int
) -> None:
    refused = said({"error": {"message": message, "type": "x", "code": 1}}, status)
    async with playing({RENDER: refused}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        answer = await ask(live)
    assert answer.status_code == code
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{}", b"[]", b"odd", b'{"token_ids": ["a"]}'])
async def test_a_prompt_that_is_none_is_refused(
    gateway_for: GatewayFor, tmp_path: Path, body: bytes
) -> None:
    async with playing({RENDER: answer_of(body)}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        answer = await ask(live)
    assert answer.status_code == 502
    assert "no token ids" in answer.json()["error"]["message"]


@BOTH
async def test_an_error_of_generate_is_that_of_chat(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    failed = said(
        {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}, "400 x"
    )
    async with playing({RENDER: said(RENDERED), GENERATE: failed}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        answer = await ask(live, stream=stream)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too long")


async def test_an_error_in_the_stream_is_passed_on(gateway_for: GatewayFor, tmp_path: Path) -> None:
    error = {"error": {"message": "the engine died", "type": "x", "code": 500}}
    body = answer_of(sse(error) + sse("[DONE]"), content_type="text/event-stream")
    async with playing({RENDER: said(RENDERED), GENERATE: body}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        answer = await ask(live, stream=True)
        [trace] = await traces_of(live, "s")
    assert "the engine died" in answer.text
    assert trace.verdict == "INCOMPLETE"


@pytest.mark.parametrize("body", [b"{}", b'{"choices": [3]}', b"odd"])
async def test_a_response_that_is_none_of_generate_is_an_error(
    gateway_for: GatewayFor, tmp_path: Path, body: bytes
) -> None:
    async with playing({RENDER: said(RENDERED), GENERATE: answer_of(body)}) as worker:
        live = await before(gateway_for, tmp_path, worker)
        answer = await ask(live)
    assert answer.status_code == 502 or answer.json()["choices"] == []


async def test_odd_requests_are_answered_as_those_of_chat(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator(SimulatorConfig(scale_out=True)) as engine:
        live = await capturing(gateway_for, tmp_path, workers=[engine.url])
        await with_tito(live, "s", "prefer")
        user = {"role": "user", "content": "Hello"}
        odd: list[dict[str, Any]] = [
            {"messages": 3},
            {"messages": [3]},
            {"messages": []},
            {"messages": [user], "seed": 10**40},
            {"messages": [{**user, "content": json.loads("[" * 500 + "]" * 500)}]},
            {"messages": [{**user, "content": "\ud83d"}], "max_tokens": 1},
        ]
        bodies = ["[]", *[json.dumps({"model": "sim", **one}) for one in odd]]
        headers = {"content-type": "application/json"}
        for body in bodies:
            both = [
                await live.client.post(f"{path}/v1/chat/completions", content=body, headers=headers)
                for path in ("/sessions/s", "/sessions/other")
            ]
            assert both[0].status_code == both[1].status_code, (body[:80], both[0].text)


async def test_text_is_streamed_while_the_engine_samples(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator(SimulatorConfig(scale_out=True, itl=0.01)) as engine:
        live = await capturing(gateway_for, tmp_path, workers=[engine.url])
        await with_tito(live, "s")
        messages = [{"role": "user", "content": "Hello"}]
        asked = {"model": "sim", "messages": messages, "max_tokens": 1_000, "ignore_eos": True}
        path = "/sessions/s/v1/chat/completions"
        more = {"stream": True, "tools": TOOLS, "seed": 5}
        async with live.client.stream("POST", path, json={**asked, **more}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and content_of(line):
                    break
            running = await live.client.get(f"{engine.url}/metrics")
            assert "num_requests_running{" in running.text
            [told] = [one for one in running.text.splitlines() if "num_requests_running{" in one]
            assert float(told.rsplit(" ", 1)[1]) == 1


def content_of(line: str) -> str | None:
    choices = json.loads(line[6:])["choices"]
    content: str | None = choices[0]["delta"].get("content") if choices else None
    return content
