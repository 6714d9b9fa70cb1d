"""Calls through a gateway that captures, and what is read back of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from pipeline.test_replay import config
from support.callers.raw_client import CutShort, RawClient
from support.callers.sampled_tokens import ASKS, sampled, sampled_of
from support.gateways.capturing import CAPTURE, capturing, chat
from support.records.vllm_recordings import RecordedExchange, load
from support.workers.playing import compare, naming, pairs, raw

from gateway import Trace, api_of
from gateway.client import AsyncGatewayClient
from gateway.config import Config, StorageSettings
from gateway.simulator import Simulator
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

CHAT = "/v1/chat/completions"
STREAM = "text/event-stream; charset=utf-8"


async def all_traces(running: Live) -> list[Trace]:
    async with AsyncGatewayClient(running.url) as client:
        return await client.query_traces()


async def only(running: Live) -> Trace:
    [trace] = await all_traces(running)
    return trace


async def post(running: Live, body: Mapping[str, object], path: str = CHAT) -> httpx.Response:
    return await running.client.post(path, json=body)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_capture_records_a_call_without_a_session(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    running = await capturing(gateway_for, tmp_path)
    answer = await post(running, {**chat(stream=stream), **ASKS})
    trace = await only(running)
    assert (trace.session_id, trace.verdict) == ("", "COMPLETE")
    assert trace.call_id == answer.headers["x-request-id"]
    assert sampled_of(trace) == sampled(answer.content, stream=stream)
    assert (await running.client.get("/sessions")).json() == []
    assert (await running.client.get(f"/traces/{trace.trace_id}")).status_code == 200


async def test_capture_records_a_retry_as_a_sibling(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    running = await capturing(gateway_for, tmp_path)
    for retries in ("0", "1"):
        headers = {"x-stainless-retry-count": retries}
        await running.client.post(f"/sessions/s{CHAT}", json=chat(seed=1), headers=headers)
    first, again = await all_traces(running)
    assert (first.retry_of, again.retry_of) == (None, first.trace_id)
    assert (again.parent_id, again.divergence) == (None, None)
    async with AsyncGatewayClient(running.url) as client:
        found = await client.trajectories("s")
    assert [one.trace_ids for one in found.trajectories] == [[first.trace_id], [again.trace_id]]


async def test_capture_records_ttft_itl_and_total_time(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    running = await capturing(gateway_for, tmp_path)
    await post(running, chat(stream=True))
    await post(running, chat())
    streamed, plain = [trace.timings for trace in await all_traces(running)]
    assert streamed.itl_p50_ms is not None
    assert streamed.itl_p99_ms is not None
    assert 0 <= streamed.itl_p50_ms <= streamed.itl_p99_ms
    assert plain.itl_p50_ms is None
    for one in (streamed, plain):
        assert one.ttft_ms is not None
        assert 0 <= one.queue_ms <= one.ttft_ms <= one.total_ms


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "now"}}

SAMPLED: Mapping[str, Mapping[str, object]] = {
    "one": {},
    "three choices": {"n": 3},
    "a tool": {"tools": [TOOL], "tool_choice": NAMED, "max_tokens": 200},
    "a stop string": {"stop": ["."], "max_tokens": 60},
    "top logprobs": {"logprobs": True, "top_logprobs": 3},
    "prompt logprobs": {"prompt_logprobs": 1},
}


@pytest.mark.parametrize("name", SAMPLED)
async def test_capture_records_a_stream_like_the_plain_response(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    running = await capturing(gateway_for, tmp_path)
    body = chat(max_tokens=20, seed=3)
    body |= SAMPLED[name]
    told = sampled((await post(running, {**body, **ASKS})).content, stream=False)
    for stream in (False, True) if "prompt_logprobs" not in body else (False,):
        answer = await post(running, {**body, "stream": stream})
        assert answer.status_code == 200
    asked, *others = await all_traces(running)
    assert sampled_of(asked) == told
    for trace in others:
        assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
        assert sampled_of(trace) == told
        for one, first in zip(trace.choices, asked.choices, strict=True):
            assert nameless(one.message) == nameless(first.message)
            assert one.tokens == first.tokens
            if name == "top logprobs":
                assert one.top_logprobs == first.top_logprobs
            if name == "prompt logprobs":
                assert len(one.prompt_logprobs or []) == len(one.prompt_token_ids)


def nameless(value: Any) -> Any:
    """Without what is empty, and without the ids of tool calls, which are new each time."""
    if isinstance(value, dict):
        return {key: nameless(inner) for key, inner in value.items() if inner and key != "id"}
    return [nameless(one) for one in value] if isinstance(value, list) else value


COMPLETIONS: Mapping[str, Mapping[str, object]] = {
    "text": {"prompt": "The harbour"},
    "ids": {"prompt": [5, 6, 7]},
    "texts": {"prompt": ["The harbour", "A ferry"], "n": 2},
    "lists of ids": {"prompt": [[5, 6, 7], [8, 9]]},
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("name", COMPLETIONS)
async def test_capture_records_completions_as_the_engine_sampled_them(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path, name: str, stream: bool
) -> None:
    running = await capturing(gateway_for, tmp_path)
    body = {**COMPLETIONS[name], "max_tokens": 5, "seed": 1}
    await post(running, {**body, "stream": stream}, "/v1/completions")
    trace = await only(running)
    direct = {**body, "return_token_ids": True, "logprobs": 0}
    said = (await running.client.post(f"{simulator.url}/v1/completions", json=direct)).json()
    assert (trace.verdict, trace.dialect, trace.streamed) == ("COMPLETE", "completions", stream)
    assert [one.index for one in trace.choices] == list(range(len(said["choices"])))
    for one, expected in zip(trace.choices, said["choices"], strict=True):
        assert one.prompt_token_ids == expected["prompt_token_ids"]
        assert one.token_ids == expected["token_ids"]
        assert one.logprobs == expected["logprobs"]["token_logprobs"]
        assert (one.text, one.finish_reason) == (expected["text"], expected["finish_reason"])


NOT_JSON = {
    "nothing": b"",
    "text": b"Hello",
    "half": b'{"messages": [',
    "a list": b"[1]",
    "bytes": bytes(range(256)),
    "no text in it": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "twice the same": b'{"model": "a", "model": "b", "messages": []}',
}


@pytest.mark.parametrize("name", NOT_JSON)
async def test_capture_survives_a_request_that_is_no_json_object(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    """Whoever judges it, the caller is told so, and nothing breaks over the record of it."""
    running = await capturing(gateway_for, tmp_path)
    headers = {"content-type": "application/json"}
    answer = await running.client.post(CHAT, content=NOT_JSON[name], headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert "hook" not in answer.text
    for trace in await all_traces(running):
        assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["error_answer"])
    assert running.gateway.storage.health.lost == 0


OTHERS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "/v1/responses": (
        {"model": "m", "input": "Hello"},
        {
            "id": "resp_1",
            "object": "response",
            "model": "m",
            "status": "completed",
            "output": [],
            "usage": {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5},
        },
    ),
    "/v1/messages": (
        {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "Hi"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 2, "output_tokens": 1},
        },
    ),
}


@pytest.mark.parametrize("path", OTHERS)
async def test_capture_records_other_apis_without_tokens_or_injection(
    gateway_for: GatewayFor, tmp_path: Path, path: str
) -> None:
    asked, said = OTHERS[path]
    async with ScriptedWorker(answer_of(json.dumps(said).encode())) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        answer = await post(running, asked, f"/sessions/s{path}")
        trace = await only(running)
        [request] = worker.requests
    assert answer.json() == said
    assert json.loads(request.partition(b"\r\n\r\n")[2]) == asked, "nothing is injected"
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["token_ids_missing"])
    assert (trace.raw_request, trace.raw_response) == (asked, said)
    assert (trace.path, trace.usage) == (path, said.get("usage"))
    assert trace.model == "m"


async def test_fault_4_capture_merges_choices_tool_calls_and_reasoning_of_a_stream(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    """Two choices whose events are mixed; tool calls in pieces, and reasoning."""

    def event(index: int, token: int, **delta: object) -> dict[str, Any]:
        scores = {"content": [{"token": "x", "logprob": -token / 10, "bytes": None}]}
        return {
            "choices": [{"index": index, "delta": delta, "token_ids": [token], "logprobs": scores}]
        }

    def piece(index: int, arguments: str, **named: object) -> dict[str, Any]:
        function = {"arguments": arguments, **named}
        return {"index": index, "function": function, **({"id": f"c{index}"} if named else {})}

    def end(index: int, reason: str) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": {}, "finish_reason": reason}]}

    first = event(0, 1, role="assistant", reasoning="Hm")
    body = sse(
        {**first, "id": "x", "model": "sim", "prompt_token_ids": [9]},
        {**event(1, 2, role="assistant", content="Sal"), "prompt_token_ids": [9]},
        event(0, 3, reasoning="mm", tool_calls=[piece(0, '{"a', name="f")]),
        event(1, 4, content="ut"),
        event(0, 5, tool_calls=[piece(1, "{}", name="g"), piece(0, '":1}')]),
        end(1, "stop"),
        end(0, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 5}},
    )
    async with ScriptedWorker(answer_of(body + DONE, content_type=STREAM)) as worker:
        running = await capturing(gateway_for, tmp_path, workers=[worker.url])
        asks = {**ASKS, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
        assert (await post(running, {**chat(), **asks})).content == body + DONE
        trace = await only(running)
    assert (trace.verdict, trace.reasons) == ("COMPLETE", [])
    one, other = trace.choices
    assert (one.token_ids, one.logprobs) == ([1, 3, 5], [-0.1, -0.3, -0.5])
    assert (other.token_ids, other.logprobs) == ([2, 4], [-0.2, -0.4])
    assert one.message is not None
    assert other.message is not None
    called = [(c["id"], c["function"]) for c in one.message["tool_calls"]]
    assert called == [
        ("c0", {"name": "f", "arguments": '{"a":1}'}),
        ("c1", {"name": "g", "arguments": "{}"}),
    ]
    assert (one.message["reasoning"], other.message["content"]) == ("Hmmm", "Salut")
    assert trace.raw_response is not None
    assert [c["message"] for c in trace.raw_response["choices"]] == [one.message, other.message]


# What a real vLLM has said.


def _may_sample(path: str) -> bool:
    api = api_of(path)
    return path.startswith("/v1/") and not (api is not None and api.samples_nothing)


RECORDED = [e for e in load().values() if e.method == "POST" and _may_sample(e.path)]


class Playing:
    """A worker that says what was recorded."""

    exchange: RecordedExchange

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.write(raw(self.exchange))
            if self.exchange.cut_short:
                return


async def play(address: tuple[str, int], exchange: RecordedExchange) -> None:
    """Ask for it, and compare what comes with what was recorded."""
    async with RawClient(*address) as client:
        headers = pairs(exchange.request_headers)
        try:
            answer = await client.ask("POST", exchange.path, headers, exchange.request_body)
        except CutShort as short:
            compare(short.answer, exchange)
        else:
            compare(answer, exchange)


async def test_capture_stores_one_trace_per_recorded_vllm_response(tmp_path: Path) -> None:
    """Nothing is injected, so that each answer fits the request that was made of the engine."""
    playing = Playing()
    options = dict.fromkeys(("token_ids", "logprobs", "usage"), False)
    async with ScriptedWorker(playing.script) as worker:
        plugins = (entry(CAPTURE, **options),)
        workers, path = config(worker.url, []).workers, str(tmp_path / "traces.db")
        async with live(
            Config(
                probes=NO_PROBES,
                workers=workers,
                plugins=plugins,
                storage=StorageSettings(path=path),
            )
        ) as running:
            for exchange in RECORDED:
                playing.exchange = exchange
                with naming(exchange):
                    await play(running.server.address, exchange)
            traces = await all_traces(running)
    assert len(traces) == len(RECORDED) > 150
    for trace, exchange in zip(traces, RECORDED, strict=True):
        with naming(exchange):
            check(trace, exchange)
    complete = [trace for trace in traces if trace.verdict == "COMPLETE"]
    assert len(complete) > 20


def check(trace: Trace, exchange: RecordedExchange) -> None:
    assert "capture_failed" not in trace.reasons
    assert (trace.verdict == "COMPLETE") == (not trace.reasons)
    if exchange.status != 200:
        assert trace.reasons == ["error_answer"]
    if exchange.cut_short:
        assert "worker_broke_off" in trace.reasons
    if exchange.status == 200 and not trace.streamed and not exchange.cut_short:
        said = json.loads(exchange.body)
        assert same(trace.raw_response, said if isinstance(said, dict) else {"json": said})
    for one in trace.choices if trace.verdict == "COMPLETE" else ():
        assert len(one.token_ids) == len(one.logprobs)


def same(one: object, other: object) -> bool:
    """As JSON texts: numbers too."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
