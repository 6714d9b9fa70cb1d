"""What a caller without any key may make a connection hold, and how long: bounded, and told."""

import asyncio
import logging
from contextlib import suppress

import msgspec
import pytest
from support.callers.raw_client import RawAnswer, RawClient, head_of
from support.callers.seen_request import seen
from support.plugins.recording_plugin import PATIENCE, until

from gateway import Call, hookimpl
from gateway.config import Config, ServerLimits, Timeouts, Worker
from gateway.frontends.connection import MAX_PIPELINED
from gateway.testing import (
    NO_PROBES,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
)

CHAT = "/v1/chat/completions"
GARBAGE = b"GARBAGE\r\n\r\n"
IN_CHUNKS = (b"transfer-encoding", b"chunked")
QUICK = Timeouts(header=0.2, keepalive=30.0)
SMALL = ServerLimits(max_header_bytes=1024)
OK = answer_of(b"{}")


class Nobody:
    """Knows no caller."""

    @hookimpl
    async def authenticate(self, call: Call) -> None:
        return None


class Reads:
    """Asks for the body of each call."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.body.read()


def before(worker: ScriptedWorker, *plugins: type, **settings: object) -> Config:
    named = tuple(entry(plugin) for plugin in plugins)
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), plugins=named, **settings)  # type: ignore[arg-type]


def code_of(answer: RawAnswer) -> str:
    return str(msgspec.json.decode(answer.body)["error"]["code"])


async def drip(client: RawClient, data: bytes) -> None:
    """Send `data` again and again, a while apart, until the connection breaks."""
    try:
        while True:
            await client.send(data)
            await asyncio.sleep(0.02)
    except (ConnectionError, RuntimeError):  # RuntimeError: uvloop, once it is closed
        pass


@pytest.mark.parametrize(
    "begun", [b"POST /v1/x HTTP/1.1\r\nx-a: ", b"GET /", b"POST /v1/x HTTP/1.1\r\n", b"\r\n"]
)
@pytest.mark.parametrize("kept", [False, True], ids=["first", "after a call"])
async def test_header_that_is_not_complete_in_time_is_refused(begun: bytes, *, kept: bool) -> None:
    async with ScriptedWorker(OK) as worker, live(before(worker, timeouts=QUICK)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            if kept:
                assert (await client.ask("GET", "/v1/models")).status == 200
            await client.send(begun)
            dripping = asyncio.create_task(drip(client, b"\r\n" if begun == b"\r\n" else b"a"))
            if not (kept and begun == b"\r\n"):  # there, no request has begun
                answer = await client.answer()
                assert (answer.status, code_of(answer)) == (408, "request_header_timeout")
                assert answer.value(b"connection") == b"close"
            with suppress(ConnectionResetError):  # by what was dripped after the close
                assert await client.ended()
            dripping.cancel()


async def test_header_has_its_whole_time_behind_a_long_call() -> None:
    free = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await free.wait()
        await connection.write(OK)
        await connection.read_request()
        await connection.write(OK)

    async with ScriptedWorker(script) as worker, live(before(worker, timeouts=QUICK)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            request = head_of("GET", "/v1/models", [])
            await client.send(request + request[:9])
            await asyncio.sleep(0.3)
            free.set()
            assert (await client.answer()).status == 200
            await client.send(request[9:])
            assert (await client.answer()).status == 200


async def test_no_time_runs_for_a_long_call_with_garbage_behind_it() -> None:
    free = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await free.wait()
        await connection.write(OK)

    async with ScriptedWorker(script) as worker, live(before(worker, timeouts=QUICK)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            request = head_of("GET", "/v1/models", [])
            await client.send(request[:9])
            await asyncio.sleep(0.05)
            await client.send(request[9:] + b"GET / GARBAGE\r\n\r\n")
            await asyncio.sleep(0.4)
            free.set()
            assert (await client.answer()).status == 200
            assert code_of(await client.answer()) == "invalid_http"


async def test_body_of_an_answered_call_does_not_hold_its_connection() -> None:
    async with ScriptedWorker(OK) as worker:
        async with live(before(worker, Nobody, timeouts=QUICK)) as gateway:
            async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
                await client.send(head_of("POST", CHAT, [(b"content-length", b"1000000")]))
                assert (await client.answer()).status == 401
                await drip(client, b"a")


async def test_trailers_are_dropped() -> None:
    trailers = b"x-after: 1\r\nx-forwarded-for: 10.9.8.7\r\nauthorization: Bearer x\r\n\r\n"
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            head = head_of("POST", CHAT, [IN_CHUNKS])
            for parts in ([head + b"2\r\n{}\r\n0\r\n" + trailers], [head, b"0\r\n", trailers]):
                for part in parts:
                    await client.send(part)
                    await gateway.client.get("/health")
                assert (await client.answer()).status == 200
            assert (await client.ask("GET", "/v1/models")).status == 200
    found = {name for one in worker.requests for name, _ in seen(one).headers}
    assert not found & {b"x-after", b"x-forwarded-for", b"authorization"}


@pytest.mark.parametrize("plugins", [(), (Reads,), (Nobody,)], ids=["sent", "read", "unknown"])
@pytest.mark.parametrize("line", [b"x: " + b"a" * 90 + b"\r\n", b"a" * 97], ids=["many", "one"])
async def test_trailers_are_bounded(plugins: tuple[type, ...], line: bytes) -> None:
    async with ScriptedWorker(OK) as worker:
        async with live(before(worker, *plugins, server_limits=SMALL)) as gateway:
            async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
                await client.send(head_of("POST", CHAT, [IN_CHUNKS]) + b"2\r\n{}\r\n0\r\n")
                await drip(client, line * 100)
    assert not worker.requests


async def test_many_small_chunks_are_no_trailer() -> None:
    async with ScriptedWorker(OK) as worker:
        async with live(before(worker, server_limits=SMALL)) as gateway:
            async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
                await client.send(head_of("POST", CHAT, [IN_CHUNKS]))
                for _ in range(20):
                    await client.send(b"1\r\na\r\n" * 100)
                    await gateway.client.get("/health")
                await client.send(b"0\r\n\r\n")
                assert (await client.answer()).status == 200
    assert seen(worker.requests[0]).body == b"a" * 2000


@pytest.mark.parametrize("calls", [0, 1, 3])
async def test_garbage_behind_calls_is_refused_after_their_responses(
    calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await asyncio.sleep(0.02)
            await connection.write(OK)

    async with ScriptedWorker(script) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            await client.send(head_of("GET", "/v1/models", []) * calls + GARBAGE)
            for _ in range(calls):
                assert (await client.answer()).body == b"{}"
            answer = await client.answer()
            assert (answer.status, code_of(answer)) == (400, "invalid_http")
            assert await client.ended()
    assert len(worker.requests) == calls
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("plugins", [(), (Reads,)], ids=["sent", "read"])
@pytest.mark.parametrize("size", [2, 70_000], ids=["small", "large"])
async def test_body_that_is_no_http_is_the_callers_fault(
    plugins: tuple[type, ...], size: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedWorker(OK) as worker, live(before(worker, *plugins)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            chunk = b"%x\r\n%b\r\n" % (size, b"a" * size)
            await client.send(head_of("POST", CHAT, [IN_CHUNKS]) + chunk)
            await gateway.client.get("/health")
            await client.send(b"no size\r\n")
            answer = await client.answer()
            assert (answer.status, code_of(answer)) == (400, "invalid_http")
        await until(lambda: not gateway.gateway.calls_in_flight)
        [only] = gateway.gateway.workers.all
        assert only.info().last_error is None
    assert not worker.requests
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_only_a_caller_in_http_1_1_is_told_to_continue(version: bytes) -> None:
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            lines = [(b"expect", b"100-Continue"), (b"content-length", b"2")]
            await client.send(head_of("POST", CHAT, lines).replace(b"HTTP/1.1", b"HTTP/" + version))
            if version == b"1.1":
                assert (await client.head()).status == 100
            await gateway.client.get("/health")  # the body is waited for by then
            await client.send(b"{}")
            assert (await client.head()).status == 200


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"GZIP,chunked", b"deflate , chunked"])
async def test_body_in_another_transfer_coding_is_refused(coding: bytes) -> None:
    """Its bytes would reach the worker without a word that they are coded."""
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            head = head_of("POST", CHAT, [(b"transfer-encoding", coding)])
            await client.send(head + b"2\r\n{}\r\n0\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, code_of(answer)) == (501, "not_supported")
            assert await client.ended()
    assert not worker.requests


@pytest.mark.parametrize("first", [b"GET /v1/models", b"GET /v1/models HTTP/2.0", b"GET / HTTP/9"])
async def test_other_versions_of_http_are_refused(first: bytes) -> None:
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            await client.send(first + b"\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, code_of(answer)) == (400, "invalid_http")
            assert await client.ended()
    assert not worker.requests


async def test_requests_that_wait_on_a_connection_are_bounded() -> None:
    arrived, free = asyncio.Event(), asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            arrived.set()
            await free.wait()
            await connection.write(OK)

    async with ScriptedWorker(script) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            await client.send(head_of("GET", "/v1/models", []))
            await arrived.wait()
            await client.send(head_of("GET", "/health", []) * (MAX_PIPELINED + 50))
            free.set()
            for _ in range(1 + MAX_PIPELINED):
                assert (await client.answer()).status == 200
            answer = await client.answer()
            assert (answer.status, code_of(answer)) == (503, "too_many_calls")
            assert answer.value(b"retry-after")
            assert await client.ended()


@pytest.mark.parametrize("request_", [GARBAGE, b"GET /v1/models HTTP/2.0\r\n\r\n"])
async def test_errors_of_the_connection_have_a_request_id(request_: bytes) -> None:
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), RawClient(*gateway.server.address) as client:
            await client.send(request_)
            answer = await client.answer()
    assert len(answer.values(b"x-request-id")) == 1


async def test_caller_that_leaves_behind_pipelined_calls_is_just_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """uvicorn tells only the last request of a connection that it is lost."""
    arrived = asyncio.Event()

    async def hold(connection: ScriptedConnection) -> None:
        await connection.read_request()
        arrived.set()
        await connection.wait_closed()

    async with ScriptedWorker(hold) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE):
            async with RawClient(*gateway.server.address) as client:
                await client.send(head_of("GET", "/v1/models", []) * 3)
                await arrived.wait()
                client.writer.write_eof()
                await until(lambda: not gateway.gateway.calls_in_flight)
    assert len(worker.requests) == 1
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
