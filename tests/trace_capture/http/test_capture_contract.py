"""What a session asks for, and faults of the contract that are done better here."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import rllm_model_gateway as rllm
from support.callers.leaving_caller import leave
from support.callers.raw_client import RawClient, head_of
from support.callers.sampled_tokens import ASKS, sampled
from support.gateways.capturing import CAPTURE, capturing, chat
from support.plugins.recording_plugin import until

from gateway import Trace
from gateway.client import AsyncGatewayClient
from gateway.config import Config, StorageSettings, Worker
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import (
    DONE,
    NO_PROBES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
    sse,
)

pytestmark = pytest.mark.usefixtures("kernel_of_module")

CHAT = "/sessions/s/v1/chat/completions"


async def traces_of(running: Live, session_id: str = "s") -> list[Trace]:
    async with AsyncGatewayClient(running.url) as client:
        return await client.get_session_traces(session_id)


def body_of(request: bytes) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
    return body


PARAMS = {"temperature": 0, "max_tokens": 5, "stop": ["x"], "logprobs": True, "top_logprobs": 2}


async def test_fault_9_session_sampling_params_override_the_caller_after_a_restart(
    tmp_path: Path,
) -> None:
    asked = {**chat(temperature=1, max_tokens=3, top_p=0.5)}
    async with ScriptedWorker(answer_of(b'{"choices": []}')) as worker:
        config = Config(
            probes=NO_PROBES,
            workers=(Worker(url=worker.url),),
            plugins=(entry("sessions"), entry(CAPTURE)),
            storage=StorageSettings(path=str(tmp_path / "traces.db")),
        )
        async with live(config) as running, AsyncGatewayClient(running.url) as client:
            await client.create_session("s", sampling_params=PARAMS)
            await running.client.post(CHAT, json=asked)
        async with live(config) as running:
            await running.client.post(CHAT, json=asked)
            await running.client.post(CHAT.replace("/s/", "/other/"), json=asked)
            first, second = await traces_of(running)
            [other] = await traces_of(running, "other")
        before, after, others = map(body_of, worker.requests)
    assert before == after == {**asked, **PARAMS, "return_token_ids": True}
    assert others == {**asked, "logprobs": True, "return_token_ids": True}
    for trace in (first, second):
        assert trace.raw_request == asked
        assert trace.overwritten == PARAMS
        assert trace.injected == {"return_token_ids": True}
        assert trace.sampling_params == {**PARAMS, "top_p": 0.5}
    assert (other.overwritten, other.sampling_params["max_tokens"]) == ({}, 3)


async def test_session_sampling_params_can_change_while_the_session_runs(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    running = await capturing(gateway_for, tmp_path)
    async with AsyncGatewayClient(running.url) as client:
        for length in (2, 4):
            await client.create_session("s", sampling_params={"max_tokens": length})
            await running.client.post(CHAT, json=chat(ignore_eos=True, max_tokens=9))
    assert [len(one.completion_token_ids) for one in await traces_of(running)] == [2, 4]


async def test_session_logprobs_are_returned_to_the_caller(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    running = await capturing(gateway_for, tmp_path)
    async with AsyncGatewayClient(running.url) as client:
        await client.create_session("s", sampling_params={"logprobs": True, "top_logprobs": 2})
    answer = await running.client.post(CHAT, json=chat())
    entries = answer.json()["choices"][0]["logprobs"]["content"]
    [trace] = await traces_of(running)
    assert trace.logprobs == [one["logprob"] for one in entries]
    assert trace.choices[0].top_logprobs == [one["top_logprobs"] for one in entries]


@pytest.mark.parametrize("asked", [{"model": "theirs"}, {}])
async def test_config_model_overrides_the_caller_s_model(
    gateway_for: GatewayFor, tmp_path: Path, asked: dict[str, str]
) -> None:
    body = {"messages": chat()["messages"], "max_tokens": 2, **asked}
    running = await gateway_for(
        "sessions", CAPTURE, model="sim", storage=StorageSettings(path=str(tmp_path / "traces.db"))
    )
    answer = await running.client.post(CHAT, json=body)
    assert answer.json()["model"] == "sim"
    [trace] = await traces_of(running)
    assert (trace.model, trace.verdict) == ("sim", "COMPLETE")
    assert (trace.raw_request, trace.overwritten) == (body, {"model": "sim"})


async def test_fault_3_trace_keeps_a_null_logprob(gateway_for: GatewayFor, tmp_path: Path) -> None:
    entries = [{"token": "a", "logprob": one, "bytes": None} for one in (None, -0.5, None)]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "aaa"},
        "token_ids": [1, 2, 3],
        "logprobs": {"content": entries},
        "finish_reason": "stop",
    }
    said = {"choices": [choice], "prompt_token_ids": [1], "usage": {"completion_tokens": 3}}
    async with ScriptedWorker(answer_of(json.dumps(said).encode())) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        await running.client.post(CHAT, json=chat())
        [trace] = await traces_of(running)
        listed = (await running.client.get("/sessions/s/traces")).json()
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["logprobs_invalid"])
    assert trace.choices[0].logprobs == [None, -0.5, None]
    [one] = map(rllm.TraceRecord.model_validate, listed)
    assert one.logprobs is None  # rllm's list of numbers has no place for a null


async def test_fault_10_trace_keeps_the_part_of_a_stream_that_the_caller_left(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """The file has it once the call is over, which it is only then."""

    def event(token: int) -> bytes:
        logprobs = {"content": [{"token": "x", "logprob": -0.5, "bytes": None}]}
        choice = {"index": 0, "delta": {"content": "x"}, "token_ids": [token]}
        return sse({"choices": [{**choice, "logprobs": logprobs}]})

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        head = answer_of(event(1) + event(2) + DONE, content_type="text/event-stream")
        await connection.write(head.removesuffix(DONE))
        await connection.wait_closed()

    async with ScriptedWorker(script) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        async with RawClient(*running.server.address) as client:
            body = json.dumps(chat(stream=True)).encode()
            lines = [(b"content-length", b"%d" % len(body))]
            await client.send(head_of("POST", CHAT, lines) + body)
            await client.reader.readuntil(b"\n\n")
            leave(client, reset=True)
            await worker.connections[0].wait_closed()
            await until(lambda: not running.gateway.proxy.in_flight)
        assert count_traces(tmp_path) == 1
        [trace] = await traces_of(running)
    assert trace.reasons == ["caller_gone", "unfinished"]
    assert (trace.completion_token_ids, trace.logprobs) == ([1, 2], [-0.5, -0.5])
    assert trace.delivery.caller_gone
    assert not trace.delivery.complete


def count_traces(folder: Path) -> int:
    with closing(sqlite3.connect(f"file:{folder}/traces.db?mode=ro", uri=True)) as db:
        [(count,)] = db.execute("SELECT count(*) FROM traces")
    return int(count)


TURNS = 40
TEXT = "Tell me more about the ferry and the harbour. " * 4


async def converse(running: Live) -> None:
    """An agent's session."""
    messages: list[dict[str, Any]] = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"{turn}: {TEXT}"})
        body = {**chat(max_tokens=8, seed=turn), "messages": messages}
        answer = await running.client.post(CHAT, json=body)
        messages.append(answer.json()["choices"][0]["message"])


async def test_fault_11_trace_size_of_a_turn_does_not_grow_with_the_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator(SimulatorConfig(max_model_len=100_000)) as engine:
        running = await capturing(gateway_for, tmp_path, workers=[engine.url])
        await converse(running)
        traces = await traces_of(running)
    assert len(traces) == TURNS
    assert {trace.verdict for trace in traces} == {"COMPLETE"}
    assert [len(trace.messages) for trace in traces] == list(range(1, 2 * TURNS, 2))
    with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
        sizes = [size for (size,) in db.execute("SELECT length(content) FROM traces")]
    early, late = sum(sizes[2:12]), sum(sizes[-10:])
    assert late < 1.2 * early, "the last turns cost what the first do"


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "now"}}


async def test_fault_12_traces_keep_tools_and_tool_calls_in_every_turn(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """The engine gets them and the caller's history as they are; their calls come parsed."""
    async with Simulator(SimulatorConfig(max_model_len=100_000)) as engine:
        running = await capturing(gateway_for, tmp_path, workers=[engine.url])
        messages: list[dict[str, Any]] = list(chat()["messages"])
        for stream in (False, True, False):
            asked = {**chat(seed=1, max_tokens=300), "messages": messages, "tools": [TOOL]}
            body = {**asked, "tool_choice": NAMED, "stream": stream}
            answer = await running.client.post(CHAT, json=body)
            direct = await running.client.post(
                f"{engine.url}/v1/chat/completions", json={**body, **ASKS}
            )
            trace = (await traces_of(running))[-1]
            told = sampled(direct.content, stream=stream)[0]
            assert answer.status_code == 200
            assert trace.prompt_token_ids == told.prompt
            assert trace.completion_token_ids == told.token_ids
            assert trace.raw_request == body
            [call] = trace.response_message["tool_calls"]
            assert call["function"]["name"] == "now"
            result = {"role": "tool", "tool_call_id": call["id"], "content": "noon"}
            messages = [*messages, trace.response_message, result]
