"""Descriptors that run short: callers wait, it is told, and no worker is blamed."""

import asyncio
import logging
import re
import sys
from collections import Counter

import pytest
from support.callers.raw_client import RawClient, head_of
from support.callers.scraping import Scrape
from support.gateways.few_descriptors import no_descriptors
from support.gateways.serving_process import COMMAND, LISTENS, PATIENCE, Process
from support.plugins.recording_plugin import until

from gateway.config import Config, Probes, StorageSettings, Worker
from gateway.serve import door as door_module
from gateway.testing import (
    NO_PROBES,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
    live,
)

MODELS = head_of("GET", "/v1/models", [])
OK = answer_of(b"{}")


def before(worker: ScriptedWorker, *plugins: str, **settings: object) -> Config:
    named = tuple(entry(plugin) for plugin in plugins)
    memory = StorageSettings(path=":memory:")
    settings = {"probes": NO_PROBES, "storage": memory, **settings}
    return Config(workers=(Worker(url=worker.url),), plugins=named, **settings)  # type: ignore[arg-type]


async def test_callers_beyond_the_descriptors_wait_until_others_leave(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    async with ScriptedWorker(OK) as worker:
        async with live(before(worker, "metrics")) as gateway, asyncio.timeout(PATIENCE):
            occupancy = gateway.gateway.occupancy
            assert occupancy.most
            assert (await gateway.client.get("/health")).json() == {"status": "ok"}
            occupancy.most = 3
            clients = [RawClient(*gateway.server.address) for _ in range(6)]
            for client in clients:
                await client.__aenter__()
                await client.send(MODELS)
            first, second, *others = clients  # the third is that of gateway.client
            assert [(await one.answer()).status for one in (first, second)] == [200, 200]
            await until(lambda: occupancy.paused)
            health = (await gateway.client.get("/health")).json()
            assert health["status"] == "degraded"
            assert "3 connections" in health["reason"]
            found = Scrape((await gateway.client.get("/metrics")).text)
            assert found.value("gateway_connections_paused") == 1
            assert found.value("gateway_connections_pauses_total") == 1
            assert len(worker.requests) == 2
            for client in clients[:4]:
                await client.__aexit__(None, None, None)
            assert [(await one.answer()).status for one in others[-2:]] == [200, 200]
            for client in clients[4:]:
                await client.__aexit__(None, None, None)
    warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in warnings if "further callers wait" in one.getMessage()]
    assert len(warnings) == 1


async def test_idle_connections_and_slow_headers_make_room_for_those_who_wait() -> None:
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        gateway.gateway.occupancy.most = 2
        async with asyncio.timeout(PATIENCE):
            async with (
                RawClient(*gateway.server.address) as slow,
                RawClient(*gateway.server.address) as idle,
                RawClient(*gateway.server.address) as waiting,
            ):
                await slow.send(MODELS[:9])
                await idle.send(MODELS)
                await idle.answer()
                await waiting.send(MODELS)
                running = asyncio.create_task(ticking(gateway.server))
                assert (await waiting.answer()).status == 200
                assert await slow.ended()
                assert await idle.ended()
                running.cancel()


async def ticking(server: object) -> None:
    """What uvicorn's own loop does, which a gateway in a test has not."""
    count = 0
    while True:
        await server.on_tick(count)  # type: ignore[attr-defined]
        count += 1
        await asyncio.sleep(0.02)


async def test_shortage_is_over_after_a_while_without_a_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door_module, "QUIET_AFTER", 0.05)
    caplog.set_level(logging.INFO, "gateway")
    async with ScriptedWorker(OK) as worker, live(before(worker)) as gateway:
        occupancy = gateway.gateway.occupancy
        most, occupancy.most = occupancy.most, 0
        async with RawClient(*gateway.server.address) as client, asyncio.timeout(PATIENCE):
            await client.send(MODELS)
            await until(lambda: occupancy.short)
            occupancy.most = most
            running = asyncio.create_task(ticking(gateway.server))
            assert (await client.answer()).status == 200
            await until(lambda: not occupancy.short)
            running.cancel()
            assert (await gateway.client.get("/health")).json() == {"status": "ok"}
    assert "suffice again" in caplog.text


async def test_worker_is_not_blamed_for_descriptors_that_the_gateway_lacks() -> None:
    eager = Probes(interval=0.02, fall=1, models_interval=None)
    async with ScriptedWorker(OK) as worker:
        config = before(worker, "circuit_breaker", "trace_capture", probes=eager)
        async with live(config) as gateway, RawClient(*gateway.server.address) as client:
            await client.ask("GET", "/health")
            [only] = gateway.gateway.workers.all
            only.pool.close_idle()
            probes = len(worker.requests)
            await until(lambda: len(worker.requests) > probes)
            with no_descriptors():
                answers = [await client.ask("GET", "/v1/models") for _ in range(3)]
                await asyncio.sleep(0.1)  # some probes
                assert only.fit
            assert only.info().last_error is None
            assert (await client.ask("GET", "/v1/models")).status == 200
    assert [one.status for one in answers] == [503] * 3
    assert all(b"out_of_sockets" in one.body for one in answers)
    assert all(one.value(b"retry-after") for one in answers)


async def test_idle_connections_to_other_workers_make_room_for_a_call() -> None:
    async with ScriptedWorker(OK) as one, ScriptedWorker(OK) as other:
        workers = (Worker(url=one.url, models=("a",)), Worker(url=other.url, models=("b",)))
        config = Config(workers=workers, probes=NO_PROBES)
        async with live(config) as gateway, RawClient(*gateway.server.address) as client:
            assert (await client.ask("POST", "/v1/x", [], b'{"model":"a"}')).status == 200
            with no_descriptors():
                await client.ask("POST", "/v1/x", [], b'{"model":"b"}')
                # The other end of the idle connection is in this process, too: now there is room.
                answer = await client.ask("POST", "/v1/x", [], b'{"model":"b"}')
    assert answer.status == 200
    assert one.connections_open == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel distributes callers there alone")
@pytest.mark.parametrize("processes", [1, 2])
async def test_many_callers_are_all_answered_with_few_descriptors(
    processes: int, tmp_path: object
) -> None:
    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await asyncio.sleep(0.02)
            await connection.write(OK)

    async with ScriptedWorker(script) as worker:
        line = f'ulimit -n 72; exec "$@" --processes {processes} --worker {worker.url}'
        running = await asyncio.create_subprocess_exec(
            *("sh", "-c", line, "sh", *COMMAND, "serve", "--port", "0"),
            *("--storage-path", f"{tmp_path}/g.db"),
            stderr=asyncio.subprocess.PIPE,
        )
        process = Process(running)
        try:
            host, port = (await process.says(LISTENS)).groups()
            process.address = host.decode(), int(port)
            found = Counter(
                await asyncio.gather(*(status_of(process.client()) for _ in range(120)))
            )
        finally:
            running.terminate()
            assert await process.ended() == 0
    assert found == {200: 120}
    told = re.findall(rb"further callers wait", process.log)
    assert 1 <= len(told) <= processes
    assert b"upstream_connect_failed" not in process.log


async def status_of(client: RawClient) -> int:
    async with asyncio.timeout(PATIENCE), client:
        return (await client.ask("GET", "/v1/models")).status
