"""What is asked of a worker itself, and no call: over TLS, with its keys, within bounds."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from support.plugins.recording_plugin import until

from gateway import UpstreamError, UpstreamTimeout, Worker
from gateway.config import TLS, Config, ServerLimits, Timeouts
from gateway.config import Worker as Settings
from gateway.errors import ConnectFailed, UpstreamClosed, UpstreamProtocol
from gateway.fleet.registry import Workers
from gateway.testing import ScriptedConnection, ScriptedWorker, answer_of

SMALL = ServerLimits(max_body_bytes=1_000)


@asynccontextmanager
async def worker_at(
    url: str, *, limits: ServerLimits = SMALL, **fields: object
) -> AsyncIterator[Worker]:
    """A worker whose connections are all gone at the block's end, without being closed."""
    settings = Settings(url=url, **fields)  # type: ignore[arg-type]
    workers = Workers(Config(workers=(settings,), server_limits=limits, timeouts=Timeouts()))
    [worker] = workers.all
    yield worker
    await until(lambda: len(worker.pool) == 0)
    assert worker.in_flight == 0


async def test_worker_request_uses_the_headers_and_path_of_the_worker() -> None:
    key = {"authorization": "Bearer of the worker"}
    async with ScriptedWorker(answer_of(b'{"a": 1}')) as server:
        async with worker_at(f"{server.url}/deep/api", headers=key) as worker:
            answer = await worker.request("POST", "/v1/load?x=1", b"{}", headers=[(b"x-a", b"b")])
            assert (answer.status, answer.body) == (200, b'{"a": 1}')
            await worker.request("GET", "/health")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /deep/api/load?x=1 HTTP/1.1"
    assert {b"authorization: Bearer of the worker", b"x-a: b", b"content-length: 2"} <= set(lines)
    assert body == b"{}"
    assert server.requests[1].startswith(b"GET /health HTTP/1.1\r\n")


async def test_worker_request_uses_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedWorker(answer_of(b"{}"), tls=context) as server:
        async with worker_at(server.url, tls=TLS(ca_file=str(tmp_path / "ca.pem"))) as worker:
            assert (await worker.request("GET", "/health")).status == 200
        async with worker_at(server.url) as stranger:
            with pytest.raises(ConnectFailed):
                await stranger.request("GET", "/health")
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", [b"content-length: 5000", b"transfer-encoding: chunked"])
async def test_worker_request_stops_at_max_body_bytes(length: bytes) -> None:
    async def flood(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length)
        while True:
            chunk = b"x" * 0x1000
            await connection.write(b"1000\r\n%b\r\n" % chunk if b"chunked" in length else chunk)

    async with ScriptedWorker(flood) as server, worker_at(server.url) as worker:
        with pytest.raises(UpstreamError, match="max_body_bytes"):
            await worker.request("GET", "/health")
        await server.connections[0].wait_closed()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_worker_request_times_out_on_an_unfinished_response(said: bytes) -> None:
    async def stall(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(said)
        await connection.closed.wait()

    async with ScriptedWorker(stall) as server, worker_at(server.url) as worker:
        with pytest.raises(UpstreamTimeout):
            await worker.request("GET", "/health", timeout=0.05)
        await server.connections[0].wait_closed()


async def test_cancelled_worker_request_closes_its_connection() -> None:
    async def stall(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.closed.wait()

    async with ScriptedWorker(stall) as server, worker_at(server.url) as worker:
        asking = asyncio.create_task(worker.request("GET", "/health"))
        await until(lambda: bool(server.requests))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.connections[0].wait_closed()


@pytest.mark.parametrize(
    ("said", "error"),
    [(b"", UpstreamClosed), (b"SSH-2.0-OpenSSH\r\n", UpstreamProtocol)],
)
async def test_worker_request_raises_on_an_invalid_response(
    said: bytes, error: type[UpstreamError]
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(said)

    async with ScriptedWorker(script) as server, worker_at(server.url) as worker:
        with pytest.raises(error):
            await worker.request("GET", "/health")


async def test_worker_request_uses_no_pooled_connection() -> None:
    async with ScriptedWorker(answer_of(b"{}")) as server, worker_at(server.url) as worker:
        for _ in range(3):
            await worker.request("GET", "/health")
        assert worker.pool.take() is None
        assert len(server.connections) == 3
