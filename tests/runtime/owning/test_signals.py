"""Signals to a gateway that loads, serves and holds calls: nothing of its engines stays."""

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import httpx
import msgspec
import pytest
from support.gateways.capturing import chat
from support.gateways.serving_process import Process, serving
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, box
from support.runtime.tiny_engines import tiny

pytestmark = pytest.mark.slow

LOADING, HOT = re.compile(rb"loading\(a\)"), re.compile(rb"hot\(a\)")
STOPS = re.compile(rb"Shutting down")


class Running:
    """A gateway with one model."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self._port = str(port).encode()

    def engines(self) -> int:
        """How many processes have the port of the runtime in their command."""
        commands = (_command(one) for one in Path("/proc").glob("[0-9]*"))
        return sum(self._port in command.split(b"\0") for command in commands)

    async def ask(self) -> tuple[int, str]:
        async with httpx.AsyncClient(base_url=self.process.url, timeout=60) as client:
            answer = await client.post(CHAT, json=chat(model="a"))
        told = answer.json()
        return answer.status_code, told["model"] if "model" in told else told["error"]["code"]

    async def stop(self, signals: int) -> None:
        """Send SIGTERM, and if `signals` is 2, SIGINT after that has had its effect."""
        self.process.kill(signal.SIGTERM)
        if signals > 1:
            await self.process.says(STOPS)
            self.process.kill(signal.SIGINT)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@contextlib.asynccontextmanager
async def running(folder: Path, *flags: str, **settings: str) -> AsyncIterator[Running]:
    plugin = box(folder, tiny("a", *flags), grace=0.5, hold=60.0)
    options = msgspec.to_builtins(plugin.options)
    path = folder / "gateway.yaml"
    path.write_text(json.dumps({"plugins": [{plugin.name: options}]}))
    settings["storage__path"] = str(folder / "gateway.db")
    async with serving("", "--config", str(path), **settings) as process:
        yield Running(process, options["runtimes"][0]["port"])


@pytest.mark.parametrize("signals", [1, 2])
async def test_waiting_call_gets_its_503_and_a_loading_engine_is_ended(
    tmp_path: Path, signals: int
) -> None:
    async with running(tmp_path, "load=600", "stubborn=1", timeouts__drain="50") as gateway:
        call = asyncio.create_task(gateway.ask())
        await gateway.process.says(LOADING)
        await until(lambda: gateway.engines() == 1)
        began = monotonic()
        await gateway.stop(signals)
        assert await call == (503, "draining")
        await gateway.process.ended()
        assert monotonic() - began < 30
        assert gateway.engines() == 0


async def test_sigint_after_sigterm_cuts_calls_off_and_leaves_no_engine(tmp_path: Path) -> None:
    async with running(tmp_path, "slow=600", "stubborn=1", timeouts__drain="50") as gateway:
        call = asyncio.create_task(gateway.ask())
        await gateway.process.says(HOT)
        began = monotonic()
        await gateway.stop(2)
        with contextlib.suppress(httpx.TransportError):
            assert (await call)[0] == 503
        await gateway.process.ended()
        assert monotonic() - began < 20
        assert gateway.engines() == 0
