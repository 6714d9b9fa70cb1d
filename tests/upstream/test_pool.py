"""Connections to a worker: kept, used again, replaced, and given up."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest
from support.plugins.recording_plugin import until
from support.workers.pool_exchanges import GET, OK, Taking, exchange, gone, pool_for

from gateway.config import Timeouts, Worker
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker

CALL = b'{"model": "m", "messages": []}'

Script = Callable[[ScriptedConnection], Awaitable[None]]


async def test_pool_takes_the_latest_used_connection_first() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker) as pool:
        first, second, third = [await pool.open() for _ in range(3)]
        for connection in (second, third, first):
            assert await exchange(connection) == b"{}"
        assert [pool.take() for _ in range(4)] == [first, third, second, None]


async def test_pool_does_not_hand_out_a_connection_in_use() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker) as pool:
        connection = await pool.open()
        assert pool.take() is None
        await exchange(connection)
        assert pool.take() is connection
        assert pool.take() is None
        assert len(pool) == 1


async def test_pool_closes_a_connection_idle_beyond_keepalive() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker, keepalive=0.02) as pool:
        connections = [await pool.open() for _ in range(3)]
        await exchange(connections[0])
        await exchange(connections[1])
        await gone(worker.connections[0])
        await gone(worker.connections[1])
        assert pool.take() is None
        assert await exchange(connections[2]) == b"{}"  # it was never idle


async def test_pool_forgets_a_connection_that_the_worker_closed() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker) as pool:
        await exchange(await pool.open())
        worker.connections[0].close()
        await until(lambda: len(pool) == 0)
        assert pool.take() is None


async def test_pool_closes_a_connection_near_the_worker_s_own_idle_timeout() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker, shortest=0) as pool:
        old, young = [await pool.open() for _ in range(2)]
        await exchange(old)
        [first] = worker.connections[:1]
        await asyncio.sleep(0.05)
        first.close()
        await until(lambda: len(pool) == 1)
        kept_for = old.loop.time() - old.idle_since  # or a little less
        await exchange(young)
        young.idle_since = young.loop.time()
        assert pool.take() is young
        await exchange(young)
        young.idle_since = young.loop.time() - kept_for
        assert pool.take() is None
        await gone(worker.connections[1])


async def test_pool_learns_no_idle_timeout_from_an_immediate_close() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker) as pool:
        first, second = [await pool.open() for _ in range(2)]
        await exchange(first)
        worker.connections[0].close()
        await until(lambda: len(pool) == 1)
        await exchange(second)
        second.idle_since -= 10
        assert pool.take() is second


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 408 Too Slow\r\n\r\n", b"\x00"])
async def test_pool_closes_an_idle_connection_on_unexpected_bytes(unasked: bytes) -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker) as pool:
        await exchange(await pool.open())
        await worker.connections[0].write(unasked)
        await gone(worker.connections[0])
        assert pool.take() is None


async def test_pool_close_closes_connections_in_use_too() -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker) as pool:
        idle, used = [await pool.open() for _ in range(2)]
        await exchange(idle)
        receiver = Taking()
        used.begin(receiver, GET[:-2], head_only=False, more=False)
        pool.close()
        for connection in worker.connections:
            await gone(connection)
        assert not receiver.ended.done()  # whoever closes the pool has ended its calls before


# through a gateway


async def call(live: Live, content: bytes = CALL) -> tuple[int, object]:
    """The status of a call, and the code of its error where it has one."""
    answer = await live.client.post("/v1/chat/completions", content=content)
    return answer.status_code, answer.json().get("error", {}).get("code")


async def test_pool_reuses_one_connection_for_consecutive_calls(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(workers=(worker.url,))
        for _ in range(5):
            assert await call(live) == (200, None)
        assert len(worker.requests) == 5
        assert len(worker.connections) == 1


async def test_pool_gives_concurrent_calls_a_connection_each_and_reuses_them(
    gateway_for: GatewayFor,
) -> None:
    together = asyncio.Barrier(4)

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await together.wait()
            await connection.write(OK)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=(worker.url,))
        for _ in range(3):
            answers = await asyncio.gather(*(call(live) for _ in range(4)))
            assert answers == [(200, None)] * 4
        assert len(worker.connections) == 4


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        OK + b"and more",
        OK + OK,
    ],
)
async def test_pool_does_not_reuse_a_connection_after_close_or_excess_bytes(
    gateway_for: GatewayFor, answer: bytes
) -> None:
    async with ScriptedWorker(answer) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live) == (200, None)
        await gone(worker.connections[0])
        assert await call(live) == (200, None)
        assert len(worker.connections) == 2


def leaving(leave: Callable[[ScriptedConnection], None], said: bytes = b"") -> Script:
    """Answers once on each connection, and leaves with the second request; later ones are well."""
    seen: list[ScriptedConnection] = []

    async def script(connection: ScriptedConnection) -> None:
        seen.append(connection)
        await connection.read_request()
        await connection.write(OK)
        await connection.read_request()
        if connection is seen[0]:
            if said:
                await connection.write(said)
            leave(connection)
            await connection.wait_closed()
        await connection.write(OK)

    return script


LEAVING = [ScriptedConnection.close, ScriptedConnection.abort, ScriptedConnection.reset]


@pytest.mark.parametrize("leave", LEAVING)
async def test_pool_resends_a_harmless_request_if_a_kept_connection_closed(
    gateway_for: GatewayFor, leave: Callable[[ScriptedConnection], None]
) -> None:
    async with ScriptedWorker(leaving(leave)) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live, b'{"first": 1}') == (200, None)
        assert (await live.client.get("/v1/models")).status_code == 200

        first, lost, again = worker.requests
        assert first.endswith(b'{"first": 1}')
        assert lost == again


@pytest.mark.parametrize("leave", LEAVING)
async def test_pool_does_not_resend_a_generation_that_the_worker_read(
    gateway_for: GatewayFor, leave: Callable[[ScriptedConnection], None]
) -> None:
    async with ScriptedWorker(leaving(leave)) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live, b'{"first": 1}') == (200, None)
        assert await call(live) == (502, "upstream_closed")
        assert len(worker.requests) == 2
        assert len(worker.connections) == 1


@pytest.mark.parametrize("leave", LEAVING)
async def test_pool_does_not_resend_a_generation_that_was_read_in_part(
    gateway_for: GatewayFor, leave: Callable[[ScriptedConnection], None]
) -> None:
    """How much of it a worker has looked at, only the worker knows."""

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.write(OK)
        await connection.reader.readexactly(1)
        leave(connection)

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live) == (200, None)
        assert await call(live) == (502, "upstream_closed")
        assert len(worker.connections) == 1


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:-1]])
async def test_pool_does_not_replace_a_connection_after_a_response_byte(
    gateway_for: GatewayFor, said: bytes
) -> None:
    async with ScriptedWorker(leaving(ScriptedConnection.close, said)) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live) == (200, None)
        if said.endswith(b"{"):
            with pytest.raises(httpx.RemoteProtocolError):
                await call(live)
        else:
            assert await call(live) == (502, "upstream_closed")
        assert len(worker.requests) == 2
        assert len(worker.connections) == 1


async def test_pool_does_not_replace_a_fresh_connection(gateway_for: GatewayFor) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live) == (502, "upstream_closed")
        assert len(worker.connections) == 1


async def test_pool_replaces_a_connection_only_once(gateway_for: GatewayFor) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        if connection is worker.connections[0]:
            await connection.write(OK)
            await connection.read_request()

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live) == (200, None)
        assert (await live.client.get("/v1/models")).status_code == 502
        assert len(worker.requests) == 3


async def test_pool_opens_a_fresh_connection_for_a_body_too_long_to_resend(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(workers=(worker.url,))
        assert await call(live) == (200, None)
        assert await call(live, b"x" * (3 << 20)) == (200, None)
        assert len(worker.connections) == 2


async def test_gateway_closes_unused_connections_after_keepalive(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(workers=(worker.url,), timeouts=Timeouts(keepalive=0.02))
        assert await call(live) == (200, None)
        await gone(worker.connections[0])
        assert await call(live) == (200, None)


async def test_pool_does_not_share_connections_between_workers(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(OK) as one, ScriptedWorker(OK) as other:
        live = await gateway_for(workers=(Worker(url=one.url), Worker(url=other.url)))
        for _ in range(4):
            assert await call(live) == (200, None)
        assert [len(one.requests), len(other.requests)] == [2, 2]
        assert [len(one.connections), len(other.connections)] == [1, 1]
