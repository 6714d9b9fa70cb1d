"""A kept connection that the worker closes as a request is on its way: who may send it again."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from support.plugins.recording_plugin import Watcher
from support.workers.failing_worker import OK, QUICK, assert_idle, unreachable

from gateway import Attempt, Call, Worker, Workers, hookimpl
from gateway.config import Config
from gateway.config import Worker as WorkerSettings
from gateway.errors import UpstreamClosed
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.failover import may_repeat
from gateway.plugins.chains import Chains, Failures
from gateway.testing import GatewayFor, Live, make_call
from gateway.upstream.delivery import ClosedBeforeDelivery, was_never_received

CHAT = "/v1/chat/completions"


class JustBefore:
    """Does something after the worker was chosen and before it is written to."""

    def __init__(self) -> None:
        self.do: list[Callable[[], None]] = []

    @hookimpl
    async def pick_worker(self, call: Call, workers: Sequence[Worker]) -> Worker | None:
        while self.do:
            self.do.pop()()
        return None


class BareWorker:
    """Answers one request on each connection, which then is in the hands of the test.

    Its sockets are the kernel's own, so that closing one takes effect at once.
    """

    def __init__(self) -> None:
        self.accepted: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.url = "http://{}:{}".format(*self._listening.getsockname())

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(self._listening)
            self.accepted.append(accepted)
            request = b""
            while not _is_whole(request):
                request += await loop.sock_recv(accepted, 1 << 20)
            await loop.sock_sendall(accepted, OK)

    def close(self) -> None:
        for one in (self._listening, *self.accepted):
            one.close()


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(end) and len(body) == int(length or b"0")


@asynccontextmanager
async def bare_worker() -> AsyncIterator[BareWorker]:
    worker = BareWorker()
    serving = asyncio.create_task(worker.serve())
    try:
        yield worker
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        worker.close()


def reset(raw: socket.socket) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


async def kept(gateway_for: GatewayFor, worker: BareWorker) -> Live:
    """A gateway with one kept connection to it."""
    live = await gateway_for(JustBefore, Watcher, workers=(worker.url,))
    assert (await live.client.post(CHAT, content=b"{}")).status_code == 200
    return live


@pytest.mark.parametrize("size", [2, 900_000], ids=["short", "long"])
async def test_undelivered_generation_is_resent_on_a_new_connection(
    gateway_for: GatewayFor, size: int
) -> None:
    async with bare_worker() as worker:
        live = await kept(gateway_for, worker)
        live.plugin(JustBefore).do.append(worker.accepted[0].close)
        answer = await live.client.post(CHAT, content=b"x" * size)
        assert answer.status_code == 200
        assert "x-gateway-attempts" not in answer.headers
        assert len(worker.accepted) == 2
    attempt = live.plugin(Watcher).attempts[-1]
    assert (attempt.error, attempt.reused) == (None, False)
    assert_idle(live.gateway)


async def test_generation_is_resent_if_the_worker_half_closed_before_it(
    gateway_for: GatewayFor,
) -> None:
    """Its FIN says that it will not answer, and that nothing had come by then."""
    async with bare_worker() as worker:
        live = await kept(gateway_for, worker)
        first = worker.accepted[0]
        live.plugin(JustBefore).do.append(lambda: first.shutdown(socket.SHUT_WR))
        assert (await live.client.post(CHAT, content=b"{}")).status_code == 200
        assert len(worker.accepted) == 2


@pytest.mark.parametrize(("method", "status"), [("POST", 502), ("GET", 200)])
async def test_generation_is_not_resent_after_a_reset(
    gateway_for: GatewayFor, method: str, status: int
) -> None:
    async with bare_worker() as worker:
        live = await kept(gateway_for, worker)
        first = worker.accepted[0]
        live.plugin(JustBefore).do.append(lambda: reset(first))
        assert (await live.client.request(method, CHAT)).status_code == status
        assert_idle(live.gateway)


async def test_generation_is_not_resent_if_the_worker_has_read_it(gateway_for: GatewayFor) -> None:
    """Read and reset within the 40 ms in which the kernel holds acknowledgements back."""
    async with bare_worker() as worker:
        live = await kept(gateway_for, worker)
        asking = asyncio.create_task(live.client.post(CHAT, content=b"{}"))
        assert await asyncio.get_running_loop().sock_recv(worker.accepted[0], 1 << 20)
        reset(worker.accepted[0])
        assert (await asking).status_code == 502
        assert len(worker.accepted) == 1


def test_closed_before_delivery_may_be_repeated() -> None:
    call = make_call()
    with unreachable() as url:
        [worker] = Workers(Config(workers=(WorkerSettings(url=url),))).all
    call.attempts.append(Attempt(worker, call.started))
    exchange = Exchange(call, Chains(Failures()))
    assert may_repeat(exchange, ClosedBeforeDelivery("gone"), 1, QUICK)
    assert not may_repeat(exchange, UpstreamClosed("gone"), 1, QUICK)


async def test_was_never_received_works_only_for_plain_tcp() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as one:
        one.setblocking(False)
        await loop.sock_connect(one, server.getsockname())
        local, remote = socket.socketpair()
        with local, remote:
            tls = ssl.create_default_context()
            told = [
                was_never_received(over, 0) for over in (_Over(one), _Over(one, tls), _Over(local))
            ]
        assert told == [True, False, False]
        assert not was_never_received(_Over(None), 0)
        assert not was_never_received(_Over(one), -1)


class _Over(asyncio.Transport):
    """Tells what it runs on: nothing, a socket that is not TCP, TLS."""

    def __init__(self, raw: socket.socket | None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__({"socket": raw, "ssl_object": tls})
