"""The end of a gateway: running calls go on, new ones are refused, and those who watch are told."""

import asyncio
import queue
import re
import signal
import threading
from pathlib import Path

import grpc
import pytest
from support.grpc.calling import Streams, own_channel, title
from support.grpc.over_http import MESSAGES
from support.grpc.stubs import serving_grpc

from gateway.simulator import Simulator, SimulatorConfig

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
CANCELLED = grpc.StatusCode.CANCELLED

SERVING, NOT_SERVING = 1, 2


class Watcher:
    """Watches a service from a thread; `told` has each status, and the code at the end."""

    def __init__(self, port: int, service: str) -> None:
        self.told: queue.Queue[object] = queue.Queue()
        self._thread = threading.Thread(target=self._watch, args=(port, service), daemon=True)
        self._thread.start()

    def _watch(self, port: int, service: str) -> None:
        sent = MESSAGES.type("grpc.health.v1.HealthCheckRequest")(service=service)
        response = MESSAGES.type("grpc.health.v1.HealthCheckResponse")
        with own_channel(port) as opened:
            watching = opened.unary_stream("/grpc.health.v1.Health/Watch")
            statuses = watching(sent.SerializeToString())
            try:
                for data in statuses:
                    self.told.put(response.FromString(data).status)
            except grpc.RpcError as error:
                self.told.put(error.code())


async def test_fault_14_sigterm_lets_running_calls_end_and_refuses_others(tmp_path: Path) -> None:
    async with (
        Simulator(SimulatorConfig(itl=0.02)) as sim,
        serving_grpc(f"{sim.url}/v1", tmp_path) as (process, port),
    ):
        watcher = Watcher(port, "llm.v1.LlmService")
        assert await asyncio.to_thread(watcher.told.get, timeout=10) == SERVING
        with own_channel(port) as kept:
            assert await asyncio.to_thread(title, kept) is OK
            streams = await asyncio.to_thread(Streams, port, 8, 60)
            await asyncio.to_thread(streams.begun)
            process.kill(signal.SIGTERM)
            assert await asyncio.to_thread(watcher.told.get, timeout=10) == NOT_SERVING
            # The library cancels a call that comes before its client has read the GOAWAY.
            assert await asyncio.to_thread(title, kept) in (UNAVAILABLE, CANCELLED)
        with own_channel(port) as another:
            assert await asyncio.to_thread(title, another) is UNAVAILABLE
        ended = await asyncio.to_thread(streams.ended)
        assert {code for code, _ in ended} == {OK}
        assert all(tokens for _, tokens in ended)
        assert await asyncio.to_thread(watcher.told.get, timeout=10) is UNAVAILABLE
        assert await process.ended() == 0
        assert len(re.findall(rb'"grpc_code":"OK"', process.log)) == 9


@pytest.mark.parametrize("drain", ["0.3", "null"])
async def test_the_drain_has_an_end_or_none(tmp_path: Path, drain: str) -> None:
    """With an end it comes with the reason; without one a second SIGINT is needed."""
    async with (
        Simulator(SimulatorConfig(itl=0.5)) as sim,
        serving_grpc(f"{sim.url}/v1", tmp_path, timeouts__drain=drain) as (process, port),
    ):
        streams = await asyncio.to_thread(Streams, port, 2, 1_000)
        await asyncio.to_thread(streams.begun)
        process.kill(signal.SIGINT)
        if drain == "null":
            await process.says(re.compile(rb"Shutting down"))
            process.kill(signal.SIGINT)
        ended = await asyncio.to_thread(streams.ended)
        assert {code for code, _ in ended} == {UNAVAILABLE}
        await process.ended()
        assert process.log.count(b'"reason":"DRAIN') == 2
