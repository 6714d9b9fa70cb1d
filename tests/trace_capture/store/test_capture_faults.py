"""Workers that go wrong: what is recorded of them, and that their callers see it all the same."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.callers.sampled_tokens import ASKS, sampled, sampled_of
from support.gateways.capturing import CAPTURE, capturing, chat

from gateway import Call, CallError, Trace, Worker, hookimpl
from gateway.client import AsyncGatewayClient
from gateway.config import StorageSettings, Timeouts
from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    sse,
)

JSON_BODY = (b"content-type", b"application/json")
CHAT = "/v1/chat/completions"
STREAM = "text/event-stream; charset=utf-8"


async def ask(
    live: Live, body: Mapping[str, object] | bytes, path: str = CHAT, fault: str = ""
) -> RawAnswer:
    """An answer of a call of the session `s`, or what came of it."""
    headers = [JSON_BODY, *([(b"x-sim-fault", fault.encode())] if fault else [])]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with RawClient(*live.server.address) as client:
        try:
            return await client.ask("POST", f"/sessions/s{path}", headers, content)
        except CutShort as short:
            return short.answer


async def recorded(live: Live) -> Trace:
    """The trace of the only call."""
    async with AsyncGatewayClient(live.url) as client:
        [trace] = await client.get_session_traces("s")
        session = await client.get_session_info("s")
    incomplete = trace.verdict == "INCOMPLETE"
    assert (session.trace_count, session.incomplete, session.lost) == (1, incomplete, 0)
    return trace


SHORT = Timeouts(first_byte=0.2, idle=0.2)
ASKED = chat(max_tokens=8, seed=1)

BROKEN = {
    "reset:3": ("upstream_closed", 200, 2),
    "close:3": ("upstream_closed", 200, 2),
    "truncate": ("upstream_closed", 200, 0),
    "hang": ("upstream_first_byte_timeout", 504, 0),
    "slow:0.5": ("upstream_idle_timeout", 200, 0),
    "reset-before": ("upstream_closed", 502, 0),
    "garbage": ("upstream_protocol_error", 502, 0),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_trace_of_a_broken_stream_keeps_the_tokens_that_arrived(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path, fault: str
) -> None:
    code, status, tokens = BROKEN[fault]
    live = await capturing(gateway_for, tmp_path, timeouts=SHORT)
    answer = await ask(live, {**ASKED, "stream": True}, fault=fault)
    assert answer.status == status
    assert (code.encode() in answer.body) == (status != 200)  # a stream only breaks off
    trace = await recorded(live)
    assert trace.verdict == "INCOMPLETE"
    assert trace.reasons[0] == "worker_broke_off"
    assert not {"caller_gone", "unreadable"} & set(trace.reasons)
    assert trace.attempts[-1].error == code
    assert (trace.delivery.status, trace.delivery.complete) == (status, False)
    whole = await live.client.post(f"{simulator.url}{CHAT}", json={**ASKED, **ASKS})
    full = sampled(whole.content, stream=False)[0]
    assert trace.completion_token_ids == full.token_ids[:tokens]
    assert (trace.logprobs or []) == full.logprobs[:tokens]


@pytest.mark.parametrize("fault", BROKEN)
async def test_trace_of_a_broken_plain_response_keeps_the_error(
    gateway_for: GatewayFor, tmp_path: Path, fault: str
) -> None:
    live = await capturing(gateway_for, tmp_path, timeouts=SHORT)
    answer = await ask(live, ASKED, fault=fault)
    assert answer.status in (502, 504)
    trace = await recorded(live)
    assert trace.verdict == "INCOMPLETE"
    assert trace.reasons[0] == "worker_broke_off"
    error = json.loads(answer.body)["error"]
    assert (trace.error, trace.attempts[-1].error) == (error["message"], error["code"])
    assert trace.completion_token_ids == []


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("fault", ["500", "503", "error-event:3"])
async def test_trace_of_an_engine_error_keeps_the_error_message(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path, fault: str, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path)
    answer = await ask(live, {**ASKED, "stream": stream}, fault=fault)
    trace = await recorded(live)
    assert trace.verdict == "INCOMPLETE"
    assert trace.error is not None
    assert trace.error.encode() in answer.body
    if answer.status == 200:
        assert answer.body.endswith(DONE), "which does not mean that it is whole"
        assert trace.reasons == ["error_event", "unfinished"]
        assert len(trace.completion_token_ids) == 2
    else:
        assert trace.reasons == ["error_answer"]
        assert trace.raw_response == json.loads(answer.body)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_trace_of_an_aborted_generation_is_incomplete(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    live = await capturing(gateway_for, tmp_path)
    answer = await ask(live, {**ASKED, "stream": stream}, fault="abort:3")
    assert sampled(answer.body, stream=stream)[0].finish_reason == "abort"
    trace = await recorded(live)
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["aborted"])
    assert len(trace.completion_token_ids) == len(trace.logprobs or []) == 3


# Engines that do not send what they are asked for, byte by byte.

IDS: list[int] = [5, 7]
SCORES: list[float | None] = [-0.5, -2.25]


def choice(*, ids: bool = True, scores: bool = True) -> dict[str, Any]:
    entries = [{"token": "a", "logprob": one, "bytes": None} for one in SCORES]
    return {
        "index": 0,
        "message": {"role": "assistant", "content": "aa"},
        "finish_reason": "stop",
        **({"token_ids": IDS} if ids else {}),
        **({"logprobs": {"content": entries}} if scores else {}),
    }


def answer_with(*, count: int | None = 2, **given: bool) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 3}
    return {
        "id": "x",
        "model": "sim",
        **({"usage": usage} if count is not None else {}),
        **({"prompt_token_ids": [1]} if given.get("ids", True) else {}),
        "choices": [choice(**given)],
    }


POOR: Mapping[str, tuple[dict[str, Any], list[str]]] = {
    "all": (answer_with(), []),
    "no ids": (answer_with(ids=False), ["prompt_ids_missing", "token_ids_missing"]),
    "no logprobs": (answer_with(scores=False), ["logprobs_missing"]),
    "no usage": (answer_with(count=None), ["usage_missing"]),
    "neither": (
        answer_with(ids=False, scores=False),
        ["prompt_ids_missing", "token_ids_missing", "logprobs_missing"],
    ),
    "one more counted": (answer_with(count=3), ["counts_differ"]),
}


def as_stream(answer: dict[str, Any]) -> bytes:
    [one] = answer["choices"]
    event = {**answer, "choices": [{**one, "delta": one["message"]}]}
    del event["choices"][0]["message"]
    return sse(event) + DONE


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("lack", POOR)
async def test_trace_names_the_missing_part_of_an_engine_s_response(
    gateway_for: GatewayFor, tmp_path: Path, lack: str, stream: bool
) -> None:
    """The caller asks for all of it, so nothing is taken out."""
    said, reasons = POOR[lack]
    body = as_stream(said) if stream else json.dumps(said).encode()
    kind = STREAM if stream else "application/json"
    async with ScriptedWorker(answer_of(body, content_type=kind)) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        options = {"stream": stream, "stream_options": {"include_usage": True}}
        answer = await ask(live, {**chat(), **ASKS, **options})
        trace = await recorded(live)
    assert answer.body == body
    assert trace.reasons == reasons
    assert trace.verdict == ("INCOMPLETE" if reasons else "COMPLETE")
    assert trace.completion_token_ids == (IDS if said["choices"][0].get("token_ids") else [])
    assert (trace.response_message["content"], trace.finish_reason) == ("aa", "stop")


NOT_ANSWERS = {
    "text": (b"busy, come again", "text/plain", "200 OK"),
    "half of JSON": (b'{"choices": [{"index": 0, "mess', "application/json", "200 OK"),
    "JSON, but a list": (b"[1, 2]", "application/json", "200 OK"),
    "another object": (b'{"hello": "you"}', "application/json", "200 OK"),
    "deep": (b'{"choices":' + b"[" * 2000 + b"]" * 2000 + b"}", "application/json", "200 OK"),
    "nothing": (b"", "application/json", "200 OK"),
    "bytes": (bytes(range(256)), "application/octet-stream", "200 OK"),
    "a stream of nonsense": (b"data: {\n\ndata: [DONE]\n\n", STREAM, "200 OK"),
    "an error page": (b"<h1>Bad Gateway</h1>", "text/html", "502 Bad Gateway"),
    "an error that is no JSON": (b"{", "application/json", "500 Oh"),
}


@pytest.mark.parametrize("name", NOT_ANSWERS)
async def test_fault_7_capture_forwards_an_invalid_response_unchanged(
    gateway_for: GatewayFor, tmp_path: Path, name: str
) -> None:
    body, kind, status = NOT_ANSWERS[name]
    said = answer_of(body, content_type=kind, status=status)
    said = said.replace(b"\r\n\r\n", b"\r\nx-engine: odd\r\n\r\n", 1)
    async with ScriptedWorker(said) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        answer = await ask(live, chat())
        trace = await recorded(live)
    assert (answer.status, answer.body) == (int(status[:3]), body)
    assert answer.value(b"content-type") == kind.encode()
    assert answer.value(b"x-engine") == b"odd"
    assert trace.verdict == "INCOMPLETE"
    assert trace.reasons[0] == ("error_answer" if answer.status != 200 else "unreadable")
    assert trace.raw_response is not None
    assert trace.raw_request == chat()


def gzipped(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return made.compress(data) + made.flush()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_capture_reads_a_compressed_response_and_forwards_it_unchanged(
    gateway_for: GatewayFor, tmp_path: Path, stream: bool
) -> None:
    said = answer_with()
    body = gzipped(as_stream(said) if stream else json.dumps(said).encode())
    raw = answer_of(body, content_type=STREAM if stream else "application/json")
    raw = raw.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n", 1)
    async with ScriptedWorker(raw) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        asked = {**chat(), **ASKS, "stream": stream, "stream_options": {"include_usage": True}}
        answer = await ask(live, asked)  # nothing is injected, so nothing has to be taken out
        trace = await recorded(live)
    assert answer.body == body
    assert (trace.verdict, trace.completion_token_ids) == ("COMPLETE", IDS)


async def test_capture_marks_a_falsely_declared_gzip_response_unreadable(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    raw = answer_of(b"{}").replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n", 1)
    async with ScriptedWorker(raw) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        assert (await ask(live, {**chat(), **ASKS})).body == b"{}"
        assert (await recorded(live)).reasons[0] == "unreadable"


async def test_capture_retries_without_a_field_that_the_worker_rejects(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    refusal = {"error": {"message": "no such field: return_token_ids", "code": 400}}
    refused = answer_of(json.dumps(refusal).encode(), status="400 Bad Request")
    said = answer_of(json.dumps(answer_with(ids=False)).encode())

    async def script(connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            await connection.write(refused if b"return_token_ids" in request else said)

    async with ScriptedWorker(script) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        answer = await ask(live, chat())
        trace = await recorded(live)
    assert answer.status == 200
    assert [one.status for one in trace.attempts] == [400, 200]
    reasons = ["prompt_ids_missing", "token_ids_missing"]
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", reasons)
    assert trace.injected == {"logprobs": True}
    assert trace.choices[0].logprobs == SCORES


async def test_trace_of_a_call_without_a_worker_has_the_503_error(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, workers=[])
    answer = await ask(live, chat())
    trace = await recorded(live)
    assert (answer.status, trace.delivery.status) == (503, 503)
    assert (trace.verdict, trace.reasons) == ("INCOMPLETE", ["error_answer"])
    assert (trace.worker, trace.attempts, trace.choices) == (None, [], [])
    assert trace.error == json.loads(answer.body)["error"]["message"]


class InOrder:
    """Takes the first worker that was not tried."""

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker:
        return workers[0]


async def test_fault_5_trace_lists_both_attempts_after_failover(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator() as down, Simulator() as up:
        down.refuse()
        live = await capturing(
            gateway_for, tmp_path, f"{__name__}:InOrder", workers=[down.url, up.url]
        )
        answer = await ask(live, ASKED)
        trace = await recorded(live)
    assert (answer.status, trace.verdict) == (200, "COMPLETE")
    assert [one.error for one in trace.attempts] == ["upstream_connect_failed", None]
    assert trace.worker == trace.attempts[1].worker


class Refusing:
    """Lets no call to a worker."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: object) -> list[Any]:
        raise CallError("not today")


async def test_trace_of_a_call_that_a_hook_rejects_has_its_error(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, f"{__name__}:Refusing")
    assert (await ask(live, chat())).status == 500
    trace = await recorded(live)
    assert (trace.reasons, trace.error) == (["error_answer"], "not today")


async def test_trace_of_a_too_long_response_keeps_its_beginning(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(
        "sessions",
        entry(CAPTURE, max_answer_bytes=2_000),
        storage=StorageSettings(path=str(tmp_path / "traces.db")),
    )
    answer = await ask(live, {**chat(), **ASKS, "max_tokens": 100, "stream": True})
    assert answer.body.endswith(DONE)
    trace = await recorded(live)
    told = sampled(answer.body, stream=True)[0].token_ids
    assert "too_large" in trace.reasons
    assert trace.completion_token_ids == told[: len(sampled_of(trace)[0].token_ids)]
