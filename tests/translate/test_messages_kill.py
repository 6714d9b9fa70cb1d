"""A gateway that is killed has the trace of every message that its caller read to the end."""

import asyncio
import json
from pathlib import Path
from signal import SIGKILL

import msgspec
from support.callers.raw_client import CutShort, RawClient
from support.gateways.capturing import CAPTURE
from support.gateways.serving_process import Process, serving
from support.paths import SUPPORT

from gateway.client import AsyncGatewayClient
from gateway.simulator import Simulator, SimulatorConfig

CALLERS = 6
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
PLUGINS = ("sessions", CAPTURE, "gateway_plugins.translate:Translate")


class Load(msgspec.Struct):
    """Callers that ask until their gateway is gone; it is killed after so many answers."""

    left: int
    ended: list[str] = []
    begun: list[str] = []

    async def run(self, process: Process) -> None:
        async with asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(self._ask_on(process, caller))

    async def _ask_on(self, process: Process, caller: int) -> None:
        try:
            async with process.client() as client:
                for turn in range(10_000):
                    await self._ask(process, client, f"{caller}-{turn}", stream=turn % 4 != 0)
        except (CutShort, OSError, asyncio.IncompleteReadError):
            return

    async def _ask(self, process: Process, client: RawClient, id_: str, *, stream: bool) -> None:
        self.begun.append(id_)
        messages = [{"role": "user", "content": id_}]
        body = {"model": "sim", "max_tokens": 6, "messages": messages, "stream": stream}
        headers = [(b"content-type", b"application/json"), (b"x-request-id", id_.encode())]
        text = json.dumps(body).encode()
        try:
            answer = await client.ask("POST", "/sessions/s/v1/messages", headers, text)
        except CutShort as short:
            if short.answer.body.endswith(STOP):
                self.ended.append(id_)
            raise
        assert answer.status == 200
        assert answer.body.endswith(STOP) or not stream
        self.ended.append(id_)
        self.left -= 1
        if self.left == 0:
            process.kill(SIGKILL)


async def test_killed_gateway_has_a_trace_of_every_message_read_to_its_end(tmp_path: Path) -> None:
    named = [part for plugin in PLUGINS for part in ("--plugin", plugin)]
    slow = ("--plugin", str(SUPPORT / "plugins" / "slow_disk.py"))
    settings = {"storage__path": str(tmp_path / "traces.db")}
    load = Load(40)
    async with Simulator(SimulatorConfig(itl=0.001)) as simulator:
        async with serving(simulator.url, *named, *slow, **settings) as process:
            await load.run(process)
        async with serving(simulator.url, *named, **settings) as process:
            async with AsyncGatewayClient(process.url) as client:
                traces = {one.call_id: one for one in await client.get_session_traces("s")}
    assert len(load.ended) >= 40
    assert len(load.ended) < len(load.begun), "it was killed in the middle of something"
    for id_ in load.ended:
        assert (traces[id_].verdict, traces[id_].translated_from) == ("COMPLETE", "messages")
