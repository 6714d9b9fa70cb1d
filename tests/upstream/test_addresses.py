"""Connecting to a worker: by name, where a name has several addresses, and on IPv6."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.workers.full_backlog import full_backlog
from support.workers.pool_exchanges import OK, address_of, exchange, pool_for

from gateway.config import ServerLimits
from gateway.errors import ConnectFailed
from gateway.testing import GatewayFor, ScriptedWorker
from gateway.upstream.pool import Pool


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".test", "a..b", "127.0.0.1"])
async def test_pool_raises_connect_failed_for_an_unreachable_worker(host: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = closed.getsockname()[1]
        pool = Pool(host, port, limits=ServerLimits(), connect=5, keepalive=60)
        with pytest.raises(ConnectFailed, match="cannot be reached"):
            await pool.open()
    assert len(pool) == 0


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the loop find these addresses for worker.test."""

    def set_addresses(*addresses: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        really = loop.getaddrinfo

        async def getaddrinfo(host: str, port: int, **hints: Any) -> list[Any]:
            if host != "worker.test":
                return await really(host, port, **hints)
            return [
                (
                    socket.AF_INET6 if ":" in host else socket.AF_INET,
                    socket.SOCK_STREAM,
                    socket.IPPROTO_TCP,
                    "",
                    (host, port, 0, 0) if ":" in host else (host, port),
                )
                for host, port in addresses
            ]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    return set_addresses


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """An address that refuses connections."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address at which connections hang."""
    with full_backlog() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        yield host, int(port)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_pool_connects_if_one_of_several_addresses_works(
    resolve: Callable[..., None], dead: tuple[str, int], place: int
) -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker, host="worker.test") as pool:
        addresses = [dead, dead]
        addresses.insert(place, address_of(worker))
        resolve(*addresses)
        assert await exchange(await pool.open()) == b"{}"


async def test_pool_tries_the_next_address_while_one_hangs(
    resolve: Callable[..., None], silent: tuple[str, int]
) -> None:
    async with ScriptedWorker(OK) as worker, pool_for(worker, host="worker.test") as pool:
        resolve(silent, address_of(worker))
        assert await exchange(await pool.open()) == b"{}"


async def test_pool_raises_connect_failed_if_all_addresses_refuse(
    resolve: Callable[..., None], dead: tuple[str, int]
) -> None:
    resolve(dead, ("::1", dead[1]), dead)
    pool = Pool("worker.test", 80, limits=ServerLimits(), connect=5, keepalive=60)
    with pytest.raises(ConnectFailed, match="cannot be reached"):
        await pool.open()


async def test_gateway_forwards_to_a_worker_on_ipv6(gateway_for: GatewayFor) -> None:
    hosts: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        hosts.extend(line for line in head.split(b"\r\n") if line.startswith(b"host:"))
        writer.write(OK)
        await reader.read()
        writer.close()

    try:
        server = await asyncio.start_server(answer, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    port = server.sockets[0].getsockname()[1]
    async with server:
        live = await gateway_for(workers=(f"http://[::1]:{port}/v1",))
        assert (await live.client.get("/v1/models")).json() == {}
    assert hosts == [b"host: [::1]:%d" % port]
