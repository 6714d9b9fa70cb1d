"""Calls through two gateways, of which the inner one drains and is replaced: held, and run once."""

import asyncio
import contextlib
import json
import re
import signal
from collections import Counter

import httpx
from support.gateways.serving_process import serving
from support.plugins.recording_plugin import until

from gateway.config import Probes, Worker
from gateway.testing import (
    NO_PROBES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
)

CHAT = "/v1/chat/completions"
SHUTTING_DOWN = re.compile(rb"Shutting down")


class SlowEngine:
    """Answers calls once `go` is set; counts them by the field `user` of their bodies."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ran: Counter[str] = Counter()
        self.server = ScriptedWorker(self._serve)

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            request = await connection.read_request()
            if request.startswith(b"POST"):
                self.ran[json.loads(request.partition(b"\r\n\r\n")[2])["user"]] += 1
                await self.go.wait()
            await connection.write(answer_of(b"{}"))


async def ask(live: Live, name: str) -> httpx.Response:
    return await live.client.post(CHAT, json={"user": name, "messages": []})


def calls(live: Live, *names: str) -> list[asyncio.Task[httpx.Response]]:
    return [asyncio.create_task(ask(live, name)) for name in names]


async def statuses(made: list[asyncio.Task[httpx.Response]]) -> list[int]:
    return [answer.status_code for answer in await asyncio.gather(*made)]


async def test_calls_are_held_while_the_inner_gateway_drains(gateway_for: GatewayFor) -> None:
    engine = SlowEngine()
    async with engine.server as server:
        old = await gateway_for(workers=[server.url], probes=NO_PROBES)
        new = await gateway_for(workers=[server.url], probes=NO_PROBES)
        outer = await gateway_for(
            "backpressure", workers=[Worker(url=old.url, worker_id="old")], probes=NO_PROBES
        )
        before = calls(outer, "a", "b")
        await until(lambda: len(engine.ran) == 2)
        draining = asyncio.create_task(old.gateway.drain(None))
        [worker] = outer.gateway.workers.all
        held = calls(outer, "c", "d", "e")
        await until(lambda: "backpressure" in worker.conditions)
        added = {"url": new.url, "worker_id": "new"}
        assert (await outer.client.post("/admin/workers", json=added)).is_success
        assert (await outer.client.delete("/admin/workers/old")).is_success
        engine.go.set()
        answers = await asyncio.gather(*before, *held)
        assert [answer.status_code for answer in answers] == [200] * 5
        await draining
        assert set(engine.ran.values()) == {1}
        named = [answer.headers["x-gateway-worker"] for answer in answers]
        assert named == ["old"] * 2 + ["new"] * 3


async def test_calls_outlive_the_restart_of_the_inner_gateway(gateway_for: GatewayFor) -> None:
    engine = SlowEngine()
    async with engine.server as server, contextlib.AsyncExitStack() as running:
        first = await running.enter_async_context(serving(server.url))
        probes = Probes(interval=600, models_interval=None)
        outer = await gateway_for("backpressure", workers=[first.url], probes=probes)
        before = calls(outer, "a", "b", "c")
        await until(lambda: len(engine.ran) == 3)
        first.kill(signal.SIGTERM)
        await first.says(SHUTTING_DOWN)
        held = calls(outer, "d", "e", "f", "g")
        await until(lambda: len(outer.gateway.calls_in_flight) == 7)
        engine.go.set()
        assert await statuses(before) == [200] * 3
        assert await first.ended() == 0
        port = str(first.address[1])
        await running.enter_async_context(serving(server.url, "--port", port))
        assert await statuses(held) == [200] * 4
        assert set(engine.ran.values()) == {1}
