"""Responses carried as chat, with OpenAI's own client."""

import contextlib
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from support.gateways.capturing import capturing
from support.records.translated.responses import events_of

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, Live, entry

TRANSLATE = "gateway_plugins.translate:Translate"

pytestmark = pytest.mark.usefixtures("simulator")


async def only(running: Live) -> Trace:
    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.query_traces()
    return trace


def openai_for(running: Live, session: str = "s") -> openai.AsyncOpenAI:
    url = f"{running.url}/sessions/{session}/v1"
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)


async def test_a_plain_response_of_a_session_is_captured_complete(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    async with openai_for(live) as client:
        response = await client.responses.create(model="sim", input="Hello", max_output_tokens=5)
    trace = await only(live)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert (trace.dialect, trace.translated_from) == ("chat", "responses")
    assert response.output_text == trace.response_message["content"]
    assert response.usage is not None
    assert response.usage.output_tokens == len(trace.completion_token_ids) == 5
    assert response.status == "incomplete"


async def test_a_stream_of_a_session_is_captured_complete(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    async with openai_for(live) as client:
        wanted: list[Any] = ["message.output_text.logprobs"]
        stream = client.responses.stream(
            model="sim", input="Hello", max_output_tokens=5, include=wanted
        )
        async with stream as events:
            kinds = [event.type async for event in events]
            final = await events.get_final_response()
    trace = await only(live)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert final.output_text == trace.response_message["content"]
    part = final.to_dict()["output"][0]["content"][0]  # type: ignore[index]
    assert len(part["logprobs"]) == 5


async def test_what_cannot_be_translated_passes_through(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    asked = {"model": "sim", "input": "Hello", "prompt": {"id": "p"}}
    await live.client.post("/sessions/s/v1/responses", json=asked)
    trace = await only(live)
    assert trace.translated_from is None
    assert "not_translated" in trace.reasons


@pytest.mark.parametrize("fault", ["abort:2", "error-event:2"])
async def test_a_stream_that_fails_never_completes(
    gateway_for: GatewayFor, tmp_path: Path, fault: str
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    asked = {"model": "sim", "input": "Hello", "stream": True, "max_output_tokens": 5}
    answer = await live.client.post(
        "/sessions/s/v1/responses", json=asked, headers={"x-sim-fault": fault}
    )
    last = events_of(answer.content)[-1]
    assert last["type"] == "response.failed", answer.text
    assert (await only(live)).verdict != "COMPLETE"


@pytest.mark.parametrize("fault", ["reset:2", "close:2", "truncate"])
async def test_a_stream_that_breaks_off_never_completes(
    gateway_for: GatewayFor, tmp_path: Path, fault: str
) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    asked = {"model": "sim", "input": "Hello", "stream": True, "max_output_tokens": 5}
    got = b""
    with contextlib.suppress(httpx.HTTPError):
        async with live.client.stream(
            "POST", "/sessions/s/v1/responses", json=asked, headers={"x-sim-fault": fault}
        ) as answer:
            async for part in answer.aiter_raw():
                got += part
    assert b"response.created" in got
    assert b"response.completed" not in got
    assert (await only(live)).verdict != "COMPLETE"


async def test_a_refusal_has_openais_envelope(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path, TRANSLATE)
    async with openai_for(live) as client:
        with pytest.raises(openai.NotFoundError) as refused:
            await client.responses.create(model="none", input="Hello")
    body: Any = msgspec.json.decode(refused.value.response.content)
    assert set(body["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_the_engines_own_responses_are_recorded_with_their_tokens(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path, entry(TRANSLATE, own_responses=True))
    asked = {"model": "sim", "input": "Hello", "max_output_tokens": 5, "stream": stream}
    answer = await live.client.post("/sessions/s/v1/responses", json=asked)
    assert answer.status_code == 200, answer.text
    response = events_of(answer.content)[-1]["response"] if stream else answer.json()
    assert response["input_messages"] is None
    assert response["output_messages"] is None
    trace = await only(live)
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["logprobs_missing"])
    assert "abort" in trace.metadata["logprobs_missing"]
    assert len(trace.completion_token_ids) == response["usage"]["output_tokens"] == 5
    assert len(trace.prompt_token_ids) == response["usage"]["input_tokens"]
    assert trace.path == "/v1/responses"
    assert trace.raw_request is not None
    if stream:
        assert events_of(answer.content)[0]["type"] == "response.created"
