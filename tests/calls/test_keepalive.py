"""A call that waits for its turn: comments for its caller, and whatever comes after them."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.gateways.capturing import CAPTURE
from support.plugins.recording_plugin import Watcher, until
from support.workers.failing_worker import refusal

from gateway import Call, NoWorker, Worker, hookimpl
from gateway.calls.keepalive import COMMENT, MAX_KEPT_BYTES, ends_in_error
from gateway.config import StorageSettings
from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    MESSAGES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    sse,
)

BODY = {"messages": [dict(one) for one in MESSAGES], "max_tokens": 3, "seed": 1, "stream": True}
STREAM = sse({"choices": []}) + DONE
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(STREAM), STREAM)


class Keeping:
    """Has each call wait for two comments before its first attempt."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        if not call.attempts:
            call.keep_alive()
            call.keep_alive()
        return workers


class Refusing:
    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker:
        raise NoWorker("nobody has room")


class Endless:
    """Never lets a call pass."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        call.keep_alive()
        await asyncio.Event().wait()
        return workers


class Late:
    """Comments when the answer has begun already."""

    @hookimpl
    def observe(self, call: Call) -> object:
        return _Commenting(call)


class _Commenting:
    def __init__(self, call: Call) -> None:
        self._call = call

    def data(self, chunk: bytes) -> None:
        self._call.keep_alive()


async def ask(live: Live, **headers: str) -> RawAnswer:
    """Raises CutShort."""
    sent = {"content-type": "application/json", **headers}
    lines = [(name.encode(), value.encode()) for name, value in sent.items()]
    async with RawClient(*live.server.address) as client:
        return await client.ask("POST", "/v1/chat/completions", lines, json.dumps(BODY).encode())


async def error_of(live: Live) -> tuple[RawAnswer, bytes]:
    """The answer, which is cut, and the data of the one event in it."""
    with pytest.raises(CutShort) as cut:
        await ask(live)
    answer = cut.value.answer
    before, _, data = answer.body.partition(b"event: error\n")
    assert (answer.status, before) == (200, COMMENT * 2)
    assert data.endswith(b"\n\n")
    lines = data[:-2].split(b"\n")
    assert all(line.startswith(b"data: ") for line in lines)
    return answer, b"\n".join(line[6:] for line in lines)


async def test_worker_stream_follows_the_keepalive_comments(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(HEAD + CHUNKS) as worker:
        live = await gateway_for(Keeping, Watcher, workers=(worker.url,))
        answer = await ask(live, **{"x-request-id": "abc", "accept-encoding": "gzip"})
        assert answer.body == COMMENT * 2 + STREAM
        assert answer.values(b"content-type") == [b"text/event-stream; charset=utf-8"]
        assert answer.value(b"x-request-id") == b"abc"
        assert b"gzip" not in worker.requests[0]
        outcome = await live.plugin(Watcher).outcome()
    assert (outcome.status, outcome.complete, outcome.bytes_sent) == (200, True, len(STREAM))


async def test_keepalive_comments_do_not_count_as_ttft(gateway_for: GatewayFor) -> None:
    proceed = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await proceed.wait()
        await connection.write(HEAD + CHUNKS)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Keeping, workers=(worker.url,))
        asked = asyncio.create_task(ask(live))
        await until(lambda: bool(worker.requests))
        [exchange] = live.gateway.proxy.in_flight
        call = exchange.call
        assert call.outcome.ttft is None
        assert not exchange.reply.begun
        proceed.set()
        await asked
        assert call.outcome.ttft is not None


async def test_openai_client_ignores_keepalive_comments(gateway_for: GatewayFor) -> None:
    texts = []
    for plugins in ((), (Keeping,)):
        live = await gateway_for(*plugins)
        async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="sim", messages=[{"role": "user", "content": "Hi"}], seed=1, stream=True
            )
            texts.append([chunk.choices[0].delta.content async for chunk in stream])
    assert texts[0] == texts[1]
    assert len(texts[0]) > 1


async def test_openai_client_raises_a_worker_error_after_comments(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Keeping)
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="other", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="does not exist"):
            async for _ in stream:
                pass


async def test_worker_error_after_comments_keeps_its_own_json(gateway_for: GatewayFor) -> None:
    body = b'{"error": {\n"message": "no",\r\n"code": 400}}'
    async with ScriptedWorker(answer_of(body, status="400 Bad Request")) as worker:
        live = await gateway_for(Keeping, Watcher, workers=(worker.url,))
        answer, data = await error_of(live)
        assert json.loads(data) == json.loads(body)
        assert DONE not in answer.body
        assert (await live.plugin(Watcher).outcome()).status == 200
        assert live.plugin(Watcher).attempts[0].status == 400


@pytest.mark.parametrize(
    ("said", "status", "told"),
    [
        (answer_of(b"Boom\n", status="500 Oh", content_type="text/plain"), 500, "stream: Boom"),
        (answer_of(b'{"choices": []}'), 200, 'stream: {"choices": []}'),
        (answer_of(b'{"error": null}', status="404 No"), 404, 'stream: {"error": null}'),
        (answer_of(b'{"error": "\xff"}', status="404 No"), 404, "�"),
        (answer_of(b"", status="500 Oh"), 500, "not with an event stream"),
        (
            answer_of(b'{"error": "%b"}' % (b"x" * MAX_KEPT_BYTES), status="500 Oh"),
            500,
            "event stream",
        ),
    ],
    ids=["text", "plain answer", "null", "no text", "empty", "too long"],
)
async def test_worker_answer_without_error_json_becomes_a_gateway_error(
    gateway_for: GatewayFor, said: bytes, status: int, told: str
) -> None:
    async with ScriptedWorker(said) as worker:
        live = await gateway_for(Keeping, workers=(worker.url,))
        error = json.loads((await error_of(live))[1])["error"]
    assert error["code"] == status
    assert told in error["message"]
    assert len(error["message"]) < 3_000


async def test_compressed_stream_after_comments_is_an_error(gateway_for: GatewayFor) -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    async with ScriptedWorker(head + CHUNKS) as worker:
        live = await gateway_for(Keeping, workers=(worker.url,))
        assert b"not with an event stream" in (await error_of(live))[1]


async def test_gateway_error_after_comments_is_sent_as_an_event(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Keeping, Refusing, Watcher)
    error = json.loads((await error_of(live))[1])["error"]
    assert (error["code"], error["type"], error["gateway_code"]) == (
        503,
        "server_error",
        "no_worker",
    )
    outcome = await live.plugin(Watcher).outcome()
    assert isinstance(outcome.error, NoWorker)


async def test_failover_tries_another_worker_after_comments(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with ScriptedWorker(refusal(503)) as busy:
        live = await gateway_for(Keeping, Watcher, workers=(busy.url, simulator.url))
        for _ in range(2):
            assert (await ask(live)).body.endswith(DONE)
        assert len(busy.requests) == 1
        assert [one.status for one in live.plugin(Watcher).attempts] in (
            [503, 200, 200],
            [200, 503, 200],
        )


async def test_stream_cut_after_comments_breaks_as_any_other(gateway_for: GatewayFor) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + CHUNKS[: CHUNKS.index(DONE)])

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Keeping, workers=(worker.url,))
        with pytest.raises(CutShort) as cut:
            await ask(live)
    assert cut.value.answer.body == COMMENT * 2 + STREAM[: -len(DONE)]


async def test_caller_disconnect_during_keepalive_is_recorded(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Endless, Watcher)
    async with live.client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
        assert answer.status_code == 200
    outcome = await live.plugin(Watcher).outcome()
    assert outcome.caller_gone


async def test_keepalive_adds_nothing_once_the_response_has_begun(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Late)
    answer = await ask(live)
    assert COMMENT not in answer.body
    assert answer.body.endswith(DONE)


async def test_trace_contains_no_keepalive_comments(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    path = str(tmp_path / "traces.db")
    live = await gateway_for("sessions", CAPTURE, Keeping, storage=StorageSettings(path=path))
    answer = await live.client.post("/sessions/a/v1/chat/completions", json=BODY)
    assert answer.text.startswith(": waiting")
    [trace] = (await live.client.get("/sessions/a/traces")).json()
    assert trace["verdict"] == "COMPLETE"
    assert len(trace["completion_token_ids"]) == 3
    assert "waiting" not in json.dumps(trace)


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (b"event: error\ndata: {}\n\n", True),
        (b"event:error\r\ndata: {}\r\n\r\n", True),
        (sse({"choices": []}) + b'data: {"error": {"code": 500}}\n\n', True),
        (b'data: {"error":\rdata: "no"}\r\r', True),
        (b'data: {"error": {"code": 500}}\n\n' + sse({"choices": []}), False),
        (sse({"choices": [], "error": None}), False),
        (sse({"choices": [{"delta": {"content": "event: error"}}]}), False),
        (b": error\n\n", False),
        (b"", False),
    ],
)
def test_ends_in_error_reads_the_last_event(stream: bytes, told: bool) -> None:
    assert ends_in_error(stream) is told


@pytest.mark.parametrize("mode", ["break", "event"])
async def test_stream_that_ends_in_the_error_of_its_worker_gets_no_second_one(
    gateway_for: GatewayFor, mode: str
) -> None:
    said = sse({"choices": []}) + b'data: {"error": {"message": "dead", "code": 500}}\n\n'

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEAD + b"%x\r\n%b\r\n" % (len(said), said))

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=(worker.url,), stream_errors=mode)
        with pytest.raises(CutShort) as cut:
            await ask(live)
    assert cut.value.answer.body == said


async def test_plain_response_cut_after_comments_is_sent_as_an_event(
    gateway_for: GatewayFor,
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 500 Oh\r\ncontent-length: 99\r\n\r\nhalf of it")

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(Keeping, workers=(worker.url,))
        error = json.loads((await error_of(live))[1])["error"]
    assert (error["code"], error["gateway_code"]) == (502, "upstream_closed")
