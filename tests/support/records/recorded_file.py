"""A file of traces, recorded by a real gateway, and the command line that reads it."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways.capturing import CAPTURE, chat

from gateway import Config
from gateway.cli import main
from gateway.config import StorageSettings, Worker
from gateway.simulator import Simulator
from gateway.testing import Live, entry, live

Said = tuple[int | str | None, str, str]


class Traces:
    """`gateway traces` on one file: exit status, standard output, standard error."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Said:
        with pytest.raises(SystemExit) as stopped:
            main(["traces", *map(str, arguments), "--storage-path", str(self.path)])
        printed = self._capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "traces.db"
    asyncio.run(record(path))
    return path


@pytest.fixture
def traces(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Traces:
    """`gateway traces` on a copy of the file, so that a test may spoil it."""
    path = tmp_path / "traces.db"
    shutil.copy(recorded, path)
    return Traces(path, capsys)


async def record(path: Path) -> None:
    """Sessions a (two turns), b (n=2) and c (a whole call, one cut off, one refused)."""
    plugins = (entry("sessions"), entry(CAPTURE))
    async with Simulator() as simulator:
        workers = (Worker(url=simulator.url, worker_id="w"),)
        config = Config(plugins=plugins, storage=StorageSettings(path=str(path)), workers=workers)
        async with live(config) as running:
            await _fill(running)


async def _fill(running: Live) -> None:
    first = (await _call(running, "a")).json()["choices"][0]["message"]
    messages = [*chat()["messages"], first, {"role": "user", "content": "And then?"}]
    await _call(running, "a", messages=messages)
    await _call(running, "b", n=2, stream=True)
    await _call(running, "c", content="Hello")
    await _call(running, "c", {"x-sim-fault": "abort:2"}, content="Not whole")
    await _call(running, "c", model="none")
    await running.client.post("/sessions", json={"session_id": "a", "metadata": {"task": 7}})
    await running.client.post("/sessions/a/rewards", json={"value": 0.5, "source": "judge"})


async def _call(
    running: Live, session: str, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    path = f"/sessions/{session}/v1/chat/completions"
    return await running.client.post(path, json=chat(**fields), headers=headers)
