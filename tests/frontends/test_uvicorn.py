"""The caller's connection under the gateway's own server, where uvicorn's `send` is passed by."""

import asyncio
import socket
from threading import Event

import pytest
from support.callers.raw_client import RawClient, head_of
from support.plugins.recording_plugin import PATIENCE, until

from gateway.config import Config, ServerLimits, Timeouts, Worker
from gateway.frontends import connection as connection_module
from gateway.testing import NO_PROBES, Live, ScriptedConnection, ScriptedWorker, answer_of, live

PATH = "/v1/chat/completions"


def before(worker: ScriptedWorker, **settings: object) -> Config:
    return Config(probes=NO_PROBES, workers=(Worker(url=worker.url),), **settings)  # type: ignore[arg-type]


def client_of(gateway: Live) -> RawClient:
    host, port = gateway.url.removeprefix("http://").split(":")
    return RawClient(host, int(port))


async def test_caller_disconnect_is_noticed_after_a_large_body() -> None:
    """uvicorn stops reading once it holds 64 KiB, and a paused connection tells of no end."""
    arrived = asyncio.Event()

    async def hold(connection: ScriptedConnection) -> None:
        await connection.read_request()
        arrived.set()
        await connection.wait_closed()

    async with ScriptedWorker(hold) as worker, live(before(worker)) as gateway:
        async with asyncio.timeout(PATIENCE), client_of(gateway) as client:
            body = b"x" * 200_000
            head = head_of("POST", PATH, [(b"content-length", b"%d" % len(body))])
            client.writer.write(head + body)
            await arrived.wait()
        async with asyncio.timeout(PATIENCE):
            await worker.connections[0].closed.wait()


async def test_rejection_reaches_a_caller_that_is_still_sending() -> None:
    """A connection that is closed with bytes unread is reset, and the answer lost with it."""
    small = ServerLimits(max_body_bytes=1024)
    async with ScriptedWorker(b"") as worker, live(before(worker, server_limits=small)) as gateway:
        for _ in range(10):
            answer = await gateway.client.post(PATH, content=b"x" * 10_000_000)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_large"
        assert not worker.connections


async def test_http_1_0_response_body_ends_with_the_connection() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    async with ScriptedWorker(chunked) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            await client.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
            head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker, live(before(worker)) as gateway:
        async with client_of(gateway) as client:
            request = head_of("GET", "/v1/%b", [])
            await client.send(b"".join(request.replace(b"%b", name) for name in (b"a", b"b")))
            ids = [(await client.answer()).status for _ in range(2)]
    assert ids == [200, 200]
    assert [request.split()[1] for request in worker.requests] == [b"/v1/a", b"/v1/b"]


async def test_idle_caller_connections_are_closed() -> None:
    quick = Timeouts(keepalive=1.0)
    async with ScriptedWorker(b"") as worker, live(before(worker, timeouts=quick)) as gateway:
        async with asyncio.timeout(PATIENCE), client_of(gateway) as client:
            assert await client.ended()


@pytest.mark.parametrize("piece", [b"GET /v1/models HTTP/1.1\r\nx: ", b"GET /v1/"])
async def test_endless_request_headers_are_rejected(piece: bytes) -> None:
    small = ServerLimits(max_header_bytes=1024)
    async with ScriptedWorker(b"") as worker, live(before(worker, server_limits=small)) as gateway:
        async with asyncio.timeout(PATIENCE), client_of(gateway) as client:
            await client.send(piece + b"a" * 4096)
            answer = await client.answer()
            assert answer.status == 400
            assert await client.ended()
            await until(lambda: not worker.connections)


def read_to_the_end(
    address: tuple[str, int], request: bytes, *, after: Event
) -> tuple[bytes, bool]:
    """What a blocking caller reads once `after` is set, and whether a reset ends it."""
    got = b""
    with socket.create_connection(address, timeout=PATIENCE) as raw:
        raw.sendall(request)
        after.wait(PATIENCE)
        try:
            while more := raw.recv(1 << 16):
                got += more
        except ConnectionResetError:
            return got, True
    return got, False


OLD = b"GET /v1/models HTTP/1.0\r\n\r\n"


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_http_1_0_caller_gets_all_bytes_before_a_break_and_then_a_reset(size: int) -> None:
    async def broken(connection: ScriptedConnection) -> None:
        await connection.read_request()
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        await connection.write(head + b"%x\r\n%b\r\n" % (size, b"a" * size))

    at_once = Event()
    at_once.set()
    async with ScriptedWorker(broken) as worker, live(before(worker)) as gateway:
        got, reset = await asyncio.to_thread(
            read_to_the_end, gateway.server.address, OLD, after=at_once
        )
    assert got.partition(b"\r\n\r\n")[2] == b"a" * size
    assert reset


async def test_http_1_0_caller_that_does_not_read_gets_no_clean_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "LINGER_SECONDS", 0.2)

    async def long(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await connection.write(b"%x\r\n%b\r\n" % (1 << 24, b"a" * (1 << 24)))

    ended = Event()
    idle = Timeouts(idle=0.2)
    async with ScriptedWorker(long) as worker, live(before(worker, timeouts=idle)) as gateway:
        reading = asyncio.create_task(
            asyncio.to_thread(read_to_the_end, gateway.server.address, OLD, after=ended)
        )
        await until(lambda: bool(worker.requests))
        await until(lambda: not gateway.server.server_state.connections)
        ended.set()
        assert (await reading)[1]
