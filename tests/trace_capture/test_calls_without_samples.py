"""Calls for which no engine samples a token leave no trace, so that no share counts them."""

import json
from pathlib import Path

import pytest
from support.gateways.capturing import call, capturing

from gateway.client import AsyncGatewayClient
from gateway.testing import GatewayFor, ScriptedWorker, answer_of

PATHS = [
    "/v1/messages/count_tokens",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/messages/render",
    "/v1/responses/render",
    "/v1/chat/completions/derender",
    "/v1/completions/derender",
    "/v1/responses/input_tokens",
    "/v1/responses/resp_1/cancel",
    "/v1/embeddings",
    "/v1/pooling",
    "/v1/score",
    "/v1/rerank",
    "/v1/classify",
    "/v1/moderations",
    "/v1/files",
    "/v1/batches",
    "/tokenize",
    "/detokenize",
]


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_calls_that_sample_nothing_leave_no_trace(
    gateway_for: GatewayFor, tmp_path: Path, status: str
) -> None:
    said = {"object": "list", "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    async with ScriptedWorker(answer_of(json.dumps(said).encode(), status=status)) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        for path in PATHS:
            asked = {"model": "m", "input": "Hello"}
            answer = await running.client.post(f"/sessions/s{path}", json=asked)
            assert (answer.status_code, answer.json()) == (int(status[:3]), said), path
        sent = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in worker.requests]
        async with AsyncGatewayClient(running.url) as client:
            assert await client.get_session_traces("s") == []
            assert await client.query_traces() == []
    assert sent == [{"model": "m", "input": "Hello"}] * len(PATHS), "nothing is injected"


async def test_samples_of_the_same_session_are_all_its_traces(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    running = await capturing(gateway_for, tmp_path)
    for path in ("/tokenize", "/v1/embeddings"):
        await running.client.post(f"/sessions/s{path}", json={"model": "sim", "prompt": "a"})
    await call(running, "s")

    async with AsyncGatewayClient(running.url) as client:
        [trace] = await client.get_session_traces("s")
    session = (await running.client.get("/sessions/s")).json()
    assert trace.verdict == "COMPLETE"
    assert (session["trace_count"], session["incomplete"]) == (1, 0)


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/unheard_of"])
async def test_calls_of_which_nothing_is_known_leave_one(
    gateway_for: GatewayFor, tmp_path: Path, path: str
) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        await running.client.post(path, json={"model": "m"})
        async with AsyncGatewayClient(running.url) as client:
            [trace] = await client.query_traces()
    assert (trace.path, trace.verdict) == (path, "INCOMPLETE")
