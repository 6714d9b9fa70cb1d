"""Answers and requests with what nobody expects in them: each leaves one trace that can be read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import capturing, chat

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.testing import DONE, GatewayFor, Live, ScriptedWorker, answer_of

pytestmark = pytest.mark.usefixtures("kernel_of_module")

CHAT = "/sessions/s/v1/chat/completions"
ENTRY = {"token": "a", "logprob": -0.5, "bytes": None}


def answer(choice: Mapping[str, object] | None = None, **fields: object) -> bytes:
    """A whole answer of one token but for what is given."""
    whole = {
        "index": 0,
        "message": {"role": "assistant", "content": "a"},
        "token_ids": [5],
        "logprobs": {"content": [ENTRY]},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    top = {"id": "x", "model": "sim", "prompt_token_ids": [1], "usage": usage}
    return json.dumps({**top, "choices": [{**whole, **(choice or {})}], **fields}).encode()


ODD: Mapping[str, tuple[bytes, str]] = {
    "an id of 40 bits": (answer({"token_ids": [2**40]}), "INCOMPLETE"),
    "an id that is a fraction": (answer({"token_ids": [1.5]}), "INCOMPLETE"),
    "ids that are a text": (answer({"token_ids": "abc"}), "INCOMPLETE"),
    "a prompt id of 33 bits": (answer(prompt_token_ids=[2**33]), "INCOMPLETE"),
    "NaN": (answer().replace(b"-0.5", b"NaN"), "INCOMPLETE"),
    "a logprob that is a text": (answer().replace(b"-0.5", b'"x"'), "INCOMPLETE"),
    "an index below zero": (answer({"index": -3}), "INCOMPLETE"),
    "an index of 70 bits": (answer({"index": 2**70}), "INCOMPLETE"),
    "usage that is a text": (answer(usage="lots"), "INCOMPLETE"),
    "usage below zero": (answer(usage={"completion_tokens": -1}), "INCOMPLETE"),
    "usage of 80 bits": (answer(usage={"completion_tokens": 2**80}), "INCOMPLETE"),
    "details of 80 bits": (
        answer(usage={"completion_tokens": 1, "details": {"cached": 2**80}}),
        "COMPLETE",
    ),
    "a weight version of 90 bits": (answer(weight_version=2**90), "COMPLETE"),
    "a weight version that is an object": (answer(weight_version={"a": 1}), "COMPLETE"),
    "a number of 400 digits": (answer(more=10**400), "COMPLETE"),
    "choices that are an object": (answer(choices={"a": 1}), "INCOMPLETE"),
    "a choice that is null": (answer(choices=[None]), "INCOMPLETE"),
    "the same choice twice": (
        answer(choices=[json.loads(answer())["choices"][0]] * 2),
        "INCOMPLETE",
    ),
    "half of a surrogate pair": (answer({"message": {"content": "\ud800"}}), "INCOMPLETE"),
    "a NUL": (answer({"message": {"content": "\0"}}), "COMPLETE"),
    "bytes that are no text": (answer().replace(b'"a"', b'"\xff"'), "INCOMPLETE"),
}


async def the_trace(running: Live) -> Trace:
    assert running.gateway.storage.health.lost == 0
    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.get_session_traces("s")
        found = await client.trajectories("s")
    assert len(found.trajectories) + len(found.left_out) >= 1
    return trace


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", ODD)
async def test_capture_stores_one_readable_trace_of_an_odd_response(
    gateway_for: GatewayFor, tmp_path: Path, name: str, stream: bool
) -> None:
    body, verdict = ODD[name]
    if stream:
        body = b"data: " + body.replace(b'"message"', b'"delta"') + b"\n\n" + DONE
    kind = "text/event-stream" if stream else "application/json"
    async with ScriptedWorker(answer_of(body, content_type=kind)) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        told = await running.client.post(CHAT, json=chat())
        trace = await the_trace(running)
    assert told.status_code == 200
    assert trace.verdict == verdict
    if verdict == "COMPLETE":
        assert (trace.completion_token_ids, trace.logprobs) == ([5], [-0.5])


FIELDS: Mapping[str, dict[str, Any]] = {
    "a seed of 40 digits": {"seed": int("9" * 40)},
    "nested": {"logit_bias": {"a": [2**64]}},
    "messages that are a text": {"messages": "hi"},
    "messages that are numbers": {"messages": [1, 2]},
    "a model that is a number": {"model": 5},
}


@pytest.mark.parametrize("by", ["the caller", "the session"])
@pytest.mark.parametrize("name", FIELDS)
async def test_capture_stores_one_readable_trace_of_an_odd_request(
    gateway_for: GatewayFor, tmp_path: Path, name: str, by: str
) -> None:
    fields = FIELDS[name]
    async with ScriptedWorker(answer_of(answer())) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        asked = {**chat(), **(fields if by == "the caller" else {})}
        if by == "the session":
            async with AsyncGatewayClient(running.url) as client:
                await client.create_session("s", sampling_params=fields)
        told = await running.client.post(CHAT, json=asked)
        trace = await the_trace(running)
        sent = json.loads(worker.requests[0].partition(b"\r\n\r\n")[2])
    assert told.status_code == 200
    assert sent.items() >= fields.items()
    assert (trace.verdict, trace.raw_request) == ("COMPLETE", asked)
    assert bool(trace.overwritten) == (by == "the session")
