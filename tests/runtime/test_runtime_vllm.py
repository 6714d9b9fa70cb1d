"""Real vLLMs as engines: `VLLM_HOME=DIR pytest -m vllm tests/runtime -n 0 --timeout 900`.

DIR has `venv/bin/vllm`, and two models in `model` and `model-b`, as small as they like.
"""

import asyncio
import os
import signal
from pathlib import Path

import httpx
import pytest
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, phases, starts

from gateway.config import Config
from gateway.testing import NO_PROBES, Live, live

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}

ARGUMENTS = (
    "--served-model-name {name} --host {host} --port {port} --dtype bfloat16 --max-model-len 2048 "
    "--max-num-seqs 16 --enforce-eager --kv-cache-memory-bytes 134217728"
)


@pytest.fixture
def home() -> Path:
    place = os.environ.get("VLLM_HOME")
    if place is None:
        pytest.skip("set VLLM_HOME to a folder with venv/bin/vllm, model and model-b")
    return Path(place)


def vllm(home: Path, name: str, model: str) -> dict[str, object]:
    command = [str(home / "venv/bin/vllm"), "serve", str(home / model), *ARGUMENTS.split()]
    return {"name": name, "command": command, "environment": ENVIRONMENT}


def config(home: Path, logs: Path) -> Config:
    models = vllm(home, "a", "model"), vllm(home, "b", "model-b")
    rules = {**QUICK, "drain_realtime": 30}
    return Config(plugins=(box(logs, *models, rules=rules, hold=600),), probes=NO_PROBES)


async def ask(live: Live, name: str, tokens: int = 8) -> httpx.Response:
    body = chat(model=name, max_tokens=tokens, ignore_eos=True)
    return await live.client.post(CHAT, json=body, timeout=600)


async def test_vllm_gives_way_under_realtime_calls_and_none_of_them_fails(
    home: Path, tmp_path: Path
) -> None:
    async with live(config(home, tmp_path)) as gateway:
        assert (await ask(gateway, "a")).status_code == 200
        before = [asyncio.create_task(ask(gateway, "a", 200)) for _ in range(8)]
        await until(lambda: gateway.gateway.workers.all[0].in_flight == 8)
        after = await ask(gateway, "b")
        assert (after.status_code, after.json()["model"]) == (200, "b")
        assert {(await call).status_code for call in before} == {200}
        assert starts(tmp_path) == 2


async def test_vllm_killed_under_load_leaves_nothing_and_is_replaced(
    home: Path, tmp_path: Path
) -> None:
    async with live(config(home, tmp_path)) as gateway:
        assert (await ask(gateway, "a")).status_code == 200
        calls = [asyncio.create_task(ask(gateway, "a", 500)) for _ in range(8)]
        await until(lambda: gateway.gateway.workers.all[0].in_flight == 8)
        [owner] = fleet_of(gateway).owners
        assert owner.identity is not None
        os.kill(int(owner.identity.removeprefix("process ")), signal.SIGKILL)
        assert {(await call).status_code for call in calls} <= {200, 502}
        assert (await ask(gateway, "a")).status_code == 200
        assert "failed(a)" in phases(gateway)
        assert starts(tmp_path) == 2
