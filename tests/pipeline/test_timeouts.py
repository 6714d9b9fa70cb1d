"""Each phase of a call that may last too long, and what its caller is told.

The values are small and nothing asserts how long anything took: the phase that is to be cut short
never ends by itself.
"""

import asyncio
import json
import socket
from collections.abc import Iterator, Mapping, Sequence

import httpx
import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient, head_of
from support.plugins.recording_plugin import Watcher
from support.steady import steady
from support.workers.full_backlog import full_backlog

from gateway import Call, Worker, hookimpl
from gateway.config import TLS, Timeouts
from gateway.config import Worker as WorkerConfig
from gateway.simulator import Simulator
from gateway.testing import MESSAGES, GatewayFor, Live, ScriptedConnection, ScriptedWorker, sse

BODY = {"messages": [dict(message) for message in MESSAGES]}
SHORT = 0.1
LONG = 60.0


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


async def ask(live: Live, *, stream: bool = False) -> httpx.Response:
    return await live.client.post("/v1/chat/completions", json={**BODY, "stream": stream})


async def ask_raw(live: Live) -> RawAnswer:
    """Raises CutShort where the connection ends before the answer does."""
    async with RawClient(*live.server.address) as client:
        return await client.ask("POST", "/v1/chat/completions", body=json.dumps(BODY).encode())


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def mid_stream_code(body: bytes) -> str:
    _, _, last = body.partition(b"event: error\ndata: ")
    code: str = json.loads(last)["error"]["gateway_code"]
    return code


# connecting


@pytest.fixture
def full() -> Iterator[str]:
    with full_backlog() as url:
        yield url


async def silent(connection: ScriptedConnection) -> None:
    await connection.wait_closed()


async def test_connect_timeout_ends_a_call(
    gateway_for: GatewayFor, full: str, stream: bool
) -> None:
    live = await gateway_for(workers=(full,), timeouts=Timeouts(connect=SHORT))
    assert told(await ask(live, stream=stream)) == (504, "upstream_connect_timeout")


async def test_connect_timeout_includes_the_tls_handshake(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(silent) as worker:
        url = worker.url.replace("http:", "https:")
        secure = WorkerConfig(url=url, tls=TLS(verify=False))
        live = await gateway_for(workers=(secure,), timeouts=Timeouts(connect=SHORT))
        assert told(await ask(live)) == (504, "upstream_connect_timeout")
        await worker.connections[0].wait_closed()


@steady
async def test_connect_timeout_fails_over_to_another_worker(
    gateway_for: GatewayFor, full: str, simulator: Simulator
) -> None:
    workers = (full, simulator.url)
    live = await gateway_for(Watcher, workers=workers, timeouts=Timeouts(connect=SHORT))
    for _ in workers:
        assert (await ask(live)).status_code == 200
    errors = [one.error.code for one in live.plugin(Watcher).attempts if one.error is not None]
    assert errors == ["upstream_connect_timeout"]


# the worker's answer


async def test_first_byte_timeout_ends_a_call(gateway_for: GatewayFor, stream: bool) -> None:
    async with ScriptedWorker(silent) as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(first_byte=SHORT))
        assert told(await ask(live, stream=stream)) == (504, "upstream_first_byte_timeout")
        await worker.connections[0].wait_closed()


async def test_first_byte_timeout_ignores_half_a_head(gateway_for: GatewayFor) -> None:
    async def half(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 200 OK\r\ncontent-")
        await connection.wait_closed()

    async with ScriptedWorker(half) as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(first_byte=SHORT))
        assert told(await ask(live)) == (504, "upstream_first_byte_timeout")


async def test_first_byte_timeout_ignores_interim_responses(gateway_for: GatewayFor) -> None:
    async def interim(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await connection.wait_closed()

    async with ScriptedWorker(interim) as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(first_byte=SHORT))
        assert told(await ask(live)) == (504, "upstream_first_byte_timeout")


HEADS: Mapping[str, bytes] = {
    "chunked": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n",
}
EVENT = sse({"choices": []})
PIECES = {"chunked": b"%x\r\n%b\r\n" % (len(EVENT), EVENT), "until close": EVENT, "length": b"{"}


def falls_silent(framing: str) -> ScriptedWorker:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEADS[framing] + PIECES[framing])
        await connection.wait_closed()

    return ScriptedWorker(script)


@pytest.mark.parametrize("framing", ["chunked", "until close"])
@steady
async def test_idle_timeout_ends_a_stream_with_an_error(
    gateway_for: GatewayFor, framing: str
) -> None:
    async with falls_silent(framing) as worker:
        live = await gateway_for(
            workers=(worker.url,), timeouts=Timeouts(idle=SHORT), stream_errors="event"
        )
        with pytest.raises(CutShort) as caught:
            await ask_raw(live)
        assert caught.value.answer.body.startswith(EVENT)
        assert mid_stream_code(caught.value.answer.body) == "upstream_idle_timeout"
        await worker.connections[0].wait_closed()


async def test_idle_timeout_cuts_a_plain_response(gateway_for: GatewayFor) -> None:
    async with falls_silent("length") as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(idle=SHORT))
        with pytest.raises(CutShort) as caught:
            await ask_raw(live)
        assert caught.value.answer.body == b"{"
        await worker.connections[0].wait_closed()


@steady
async def test_idle_timeout_counts_from_the_last_chunk(gateway_for: GatewayFor) -> None:
    async def slow(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEADS["chunked"])
        for _ in range(10):
            await asyncio.sleep(SHORT / 2)
            await connection.write(PIECES["chunked"])
        await connection.write(b"0\r\n\r\n")

    async with ScriptedWorker(slow) as worker:
        timeouts = Timeouts(idle=SHORT * 4, first_byte=LONG)
        live = await gateway_for(workers=(worker.url,), timeouts=timeouts)
        assert (await ask_raw(live)).body == EVENT * 10


# the call as a whole


class Queue:
    """Lets nobody through."""

    @hookimpl
    async def admit(self, call: Call) -> None:
        await asyncio.Event().wait()


class FullWorkers:
    """Waits for room at a worker that there never is."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        await asyncio.Event().wait()
        return workers


@pytest.mark.parametrize("queue", [Queue, FullWorkers])
async def test_total_timeout_ends_a_queued_call(
    gateway_for: GatewayFor, queue: type, stream: bool
) -> None:
    live = await gateway_for(queue, timeouts=Timeouts(total=SHORT))
    assert told(await ask(live, stream=stream)) == (504, "upstream_total_timeout")


async def test_total_timeout_ends_a_call_while_connecting(
    gateway_for: GatewayFor, full: str
) -> None:
    live = await gateway_for(workers=(full,), timeouts=Timeouts(total=SHORT, connect=LONG))
    assert told(await ask(live)) == (504, "upstream_total_timeout")


async def test_total_timeout_ends_a_call_before_the_response(
    gateway_for: GatewayFor, stream: bool
) -> None:
    async with ScriptedWorker(silent) as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(total=SHORT))
        assert told(await ask(live, stream=stream)) == (504, "upstream_total_timeout")
        await worker.connections[0].wait_closed()


@steady
async def test_total_timeout_ends_a_running_stream(gateway_for: GatewayFor) -> None:
    async def endless(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(HEADS["chunked"])
        while True:
            await connection.write(PIECES["chunked"])
            await asyncio.sleep(SHORT / 20)

    async with ScriptedWorker(endless) as worker:
        live = await gateway_for(
            workers=(worker.url,), timeouts=Timeouts(total=SHORT), stream_errors="event"
        )
        with pytest.raises(CutShort) as caught:
            await ask_raw(live)
        assert mid_stream_code(caught.value.answer.body) == "upstream_total_timeout"
        await worker.connections[0].wait_closed()


# the request's body


@pytest.mark.parametrize("sent", [b"", b"{", b"x" * 200_000])
async def test_idle_timeout_rejects_a_stalled_request_body(
    gateway_for: GatewayFor, sent: bytes
) -> None:
    live = await gateway_for(timeouts=Timeouts(idle=SHORT))
    async with RawClient(*live.server.address) as client:
        head = head_of("POST", "/v1/completions", [(b"content-length", b"300000")])
        await client.send(head + sent)
        answer = await client.answer("POST")
    assert answer.status == 408
    assert json.loads(answer.body)["error"]["code"] == "request_body_timeout"


async def test_idle_timeout_rejects_a_stalled_streamed_body(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(silent) as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(idle=SHORT))
        async with RawClient(*live.server.address) as client:
            head = head_of("POST", "/v1/completions", [(b"transfer-encoding", b"chunked")])
            await client.send(head + b"2\r\nab\r\n")
            await client.send(b"2\r\ncd\r\n")
            answer = await client.answer("POST")
        assert answer.status == 408
        await worker.connections[0].wait_closed()
        assert b"transfer-encoding: chunked" in await worker.connections[0].reader.read()


async def test_idle_timeout_ends_a_call_if_the_worker_reads_no_body(
    gateway_for: GatewayFor,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel connects, and nobody reads
        url = "http://{}:{}".format(*deaf.getsockname())
        live = await gateway_for(workers=(url,), timeouts=Timeouts(idle=SHORT, first_byte=LONG))
        answer = await live.client.post("/v1/completions", content=bytes(32 << 20))
    assert told(answer) == (504, "upstream_idle_timeout")
