"""A gateway that is killed, or ended in order, and what becomes of its engine."""

import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gateway_plugins.runtime.policy.saved import Saved
from support.gateways.capturing import chat
from support.gateways.serving_process import Process, serving
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, box, model, starts

pytestmark = pytest.mark.slow


def written(folder: Path) -> str:
    """The path of a configuration with one model, which is the realtime one."""
    plugin = box(folder, model("a"), runtime={"realtime": "a"})
    content = {"plugins": [{plugin.name: msgspec.to_builtins(plugin.options)}]}
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(content))
    return str(path)


async def asked(process: Process) -> dict[str, Any]:
    """Make a call; return what the only runtime is then."""
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as client:
        answer = await client.post(CHAT, json=chat(model="a"))
        assert answer.status_code == 200, answer.text
        [runtime] = (await client.get("/admin/runtime")).json()["runtimes"]
        assert isinstance(runtime, dict)
        return runtime


def engines(folder: Path) -> int:
    """How many processes have the configuration's port in their command."""
    options = json.loads((folder / "gateway.yaml").read_text())["plugins"][0]
    port = str(next(iter(options.values()))["runtimes"][0]["port"]).encode()
    commands = (_command(one) for one in Path("/proc").glob("[0-9]*"))
    return sum(port in command.split(b"\0") for command in commands)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


async def test_engine_of_a_killed_gateway_is_ended_by_the_next(tmp_path: Path) -> None:
    config, path = written(tmp_path), str(tmp_path / "gateway.db")
    async with serving("", "--config", config, storage__path=path) as first:
        assert (await asked(first))["generation"] == 1
        assert engines(tmp_path) == 1
        first.kill(signal.SIGKILL)
        await first.ended()
    assert engines(tmp_path) == 1
    async with serving("", "--config", config, storage__path=path) as second:
        assert (await asked(second))["generation"] == 2
        assert (engines(tmp_path), starts(tmp_path)) == (1, 2)
        second.kill(signal.SIGTERM)
        assert await second.ended() == 0
    await until(lambda: engines(tmp_path) == 0)


async def test_fault_5_2_a_killed_gateway_has_saved_the_latest_realtime_call(
    tmp_path: Path,
) -> None:
    config, path = written(tmp_path), str(tmp_path / "gateway.db")
    before = time.time()
    async with serving("", "--config", config, storage__path=path) as process:
        await asked(process)
        await until(lambda: before <= (saved(path).realtime_at or 0) <= time.time())
        process.kill(signal.SIGKILL)
        await process.ended()
    assert before <= (saved(path).realtime_at or 0)


def saved(path: str) -> Saved:
    """What the policy of the only runtime has in the database."""
    with closing(sqlite3.connect(path)) as database:
        [(content,)] = database.execute("SELECT content FROM runtime_saved")
        return msgspec.json.decode(content, type=Saved)
