"""One JSON line for each call, and nothing secret in it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.plugins.recording_plugin import until

from gateway import ConfigError
from gateway.config import Config, Worker
from gateway.simulator import Simulator
from gateway.testing import (
    NO_PROBES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    entry,
    live,
    make_call,
)

CANARY = "canary-5f3a"
CHAT = "/v1/chat/completions"


def body(**more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": f"my secret is {CANARY}"}]
    return {"model": "sim", "messages": messages, "max_tokens": 5, **more}


class Logged:
    """Runs calls through a gateway with the log in a file, and gives its lines."""

    def __init__(self, file: Path, worker: str, **options: object) -> None:
        self._file = file
        log = entry("access_log", path=str(file), **options)
        workers = (Worker(url=worker, worker_id="w"),)
        self._config = Config(probes=NO_PROBES, workers=workers, plugins=(entry("sessions"), log))

    async def lines(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        async with live(self._config) as gateway:
            for request in requests:
                await self._ask(gateway, **{"url": CHAT, "method": "POST", **request})
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    async def _ask(self, gateway: Live, **request: Any) -> None:
        headers = {"authorization": f"Bearer {CANARY}", "x-api-key": CANARY}
        with suppress(httpx.RemoteProtocolError):
            await gateway.client.request(**request, headers=headers)


async def test_access_log_records_a_plain_call(tmp_path: Path, simulator: Simulator) -> None:
    [line] = await Logged(tmp_path / "log", simulator.url).lines(
        {"json": body(), "url": f"/sessions/agent{CHAT}"}
    )
    assert line.pop("duration") >= line.pop("ttft") > 0
    assert line.pop("time") > 1_700_000_000
    assert line.pop("bytes") > 100
    assert len(line.pop("call_id")) == 32
    assert line.pop("prompt_tokens") > 0
    assert line == {
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "session_id": "agent",
        "worker": "w",
        "model": "sim",
        "completion_tokens": 5,
    }


async def test_access_log_names_a_front_end_other_than_http(
    tmp_path: Path, simulator: Simulator
) -> None:
    config = Config(
        probes=NO_PROBES,
        workers=(Worker(url=simulator.url),),
        plugins=(entry("access_log", path=str(tmp_path / "log")),),
    )
    async with live(config) as gateway:
        call = make_call(headers={"content-type": "application/json"})
        call.frontend = "grpc"
        await gateway.gateway.dispatch(call)
        await gateway.client.post(CHAT, json=body())
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert first["frontend"] == "grpc"
    assert "frontend" not in second


async def test_access_log_counts_stream_tokens_without_usage(
    tmp_path: Path, simulator: Simulator
) -> None:
    asked, unasked = await Logged(tmp_path / "log", simulator.url).lines(
        {"json": body(stream=True, seed=7, stream_options={"include_usage": True})},
        {"json": body(stream=True, seed=7)},
    )
    assert asked["completion_tokens"] == unasked["completion_tokens"] == 5
    assert "tokens_counted" not in asked
    assert unasked["tokens_counted"]


async def test_access_log_omits_tokens_if_they_are_disabled(
    tmp_path: Path, simulator: Simulator
) -> None:
    [line] = await Logged(tmp_path / "log", simulator.url, tokens=False).lines({"json": body()})
    assert "completion_tokens" not in line


async def test_access_log_records_the_error_code(tmp_path: Path) -> None:
    async def reset(connection: ScriptedConnection) -> None:
        await connection.read_request()
        connection.reset()

    async with ScriptedWorker(reset) as worker:
        [line] = await Logged(tmp_path / "log", worker.url).lines({"json": body()})
    assert (line["status"], line["error"]) == (502, "upstream_closed")


async def test_access_log_contains_no_prompt_and_no_key(
    tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "log"
    requests: list[dict[str, Any]] = [
        {"json": body()},
        {"json": body(stream=True)},
        {"content": CANARY},
    ]
    assert len(await Logged(file, simulator.url).lines(*requests)) == 3
    assert CANARY not in file.read_text()
    assert CANARY not in caplog.text


async def test_access_log_fails_at_startup_if_its_file_is_unwritable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="access_log"):
        await Logged(tmp_path / "no" / "folder", "http://127.0.0.1:1").lines()


async def test_access_log_may_be_rotated(tmp_path: Path, simulator: Simulator) -> None:
    file = tmp_path / "log"
    config = Config(
        probes=NO_PROBES,
        workers=(Worker(url=simulator.url),),
        plugins=(entry("access_log", path=str(file)),),
    )
    async with live(config) as gateway:
        await gateway.client.post(CHAT, json=body())
        await until(lambda: bool(file.read_text()))
        file.rename(tmp_path / "old")
        await gateway.client.post(CHAT, json=body())
    assert len(file.read_text().splitlines()) == 1
    assert len((tmp_path / "old").read_text().splitlines()) == 1
