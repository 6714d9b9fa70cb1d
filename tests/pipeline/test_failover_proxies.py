"""Real proxies in front of engines that are killed at their work: no generation runs twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from support.plugins.recording_plugin import until
from support.ports import free_port
from support.workers.counting_engine import Engine
from support.workers.failing_worker import QUICK, InOrder
from support.workers.real_proxies import Kind, installed, proxied

from gateway.config import Probes, Timeouts, Worker
from gateway.testing import GatewayFor, Live

pytestmark = [
    pytest.mark.proxies,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        installed("nginx") is None or installed("haproxy") is None,
        reason="needs nginx and HAProxy",
    ),
]

KILLS = 20
UNASKED = Probes(interval=None, models_interval=None)
CALL = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}

Pair = tuple[Engine, Engine, list[int]]


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Pair]:
    """The one that is asked first and killed, its stand-in, and their ports."""
    ports = [free_port(), free_port()]
    one, two = (Engine(port, tmp_path / f"{port}.begun") for port in ports)
    try:
        await one.start()
        await two.start()
        yield one, two, ports
    finally:
        await one.kill()
        await two.kill()


async def serving(gateway_for: GatewayFor, urls: list[str], *refuses_with: int) -> Live:
    workers = [
        Worker(url=url, worker_id=name, refuses_with=refuses_with)
        for name, url in zip("ab", urls, strict=True)
    ]
    return await gateway_for(
        InOrder,
        workers=workers,
        failover=QUICK,
        probes=UNASKED,
        timeouts=Timeouts(first_byte=20),
    )


async def ask(live: Live) -> httpx.Response:
    return await live.client.post("/v1/chat/completions", json=CALL)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_no_generation_runs_twice_behind_a_proxy_whose_engine_is_killed(
    gateway_for: GatewayFor, engines: Pair, tmp_path: Path, kind: Kind
) -> None:
    one, two, ports = engines
    statuses = Counter[int]()
    async with proxied(kind, ports, tmp_path) as urls:
        live = await serving(gateway_for, urls)
        for _ in range(KILLS):
            statuses[await _status_of_a_killed_call(live, one)] += 1
            await one.start()
        assert (await ask(live)).status_code == 200
    begun = one.begun + two.begun
    assert len(begun) == KILLS + 1
    assert [call for call, times in begun.items() if times > 1] == []
    assert statuses == {502: KILLS}


async def _status_of_a_killed_call(live: Live, engine: Engine) -> int:
    """Of one whose engine is killed once it has begun it."""
    before = engine.begun.total()
    asking = asyncio.create_task(ask(live))
    await until(lambda: engine.begun.total() > before)
    await engine.kill()
    return (await asking).status_code


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_time_out_of_a_proxy_is_no_refusal(
    gateway_for: GatewayFor, engines: Pair, tmp_path: Path, kind: Kind
) -> None:
    one, two, ports = engines
    async with proxied(kind, ports, tmp_path, patience="100ms") as urls:
        live = await serving(gateway_for, urls)
        assert (await ask(live)).status_code == 504
    assert (one.begun.total(), two.begun.total()) == (1, 0)


@pytest.mark.parametrize(("kind", "status"), [("nginx", 502), ("haproxy", 200)])
async def test_call_goes_elsewhere_if_the_proxy_tells_that_no_engine_is_there(
    gateway_for: GatewayFor, engines: Pair, tmp_path: Path, kind: Kind, status: int
) -> None:
    """HAProxy has a status of its own for that, nginx has not."""
    one, _, ports = engines
    async with proxied(kind, ports, tmp_path) as urls:
        live = await serving(gateway_for, urls, 503)
        await one.kill()
        assert (await ask(live)).status_code == status
