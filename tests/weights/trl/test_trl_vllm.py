"""TRL's own client against two real vLLMs behind the gateway.

Opt-in, with two servers as `trl vllm-serve` starts them and a Python that has TRL 1.16:

    VLLM_URLS=http://127.0.0.1:8001,http://127.0.0.1:8002 TRL_PYTHON=TRL/bin/python \
        pytest -m vllm tests/weights/trl/test_trl_vllm.py
"""

import asyncio
import os
from typing import Any

import httpx
import msgspec
import pytest
from support.paths import SUPPORT
from support.workers.trl_worker import shipped

from gateway.config import StorageSettings
from gateway.testing import live

URLS = os.environ.get("VLLM_URLS", "")
PYTHON = os.environ.get("TRL_PYTHON", "")
CLIENT = SUPPORT / "workers" / "trl_client.py"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (URLS and PYTHON), reason="VLLM_URLS and TRL_PYTHON do not name two vLLMs and TRL"
    ),
]


async def client_told(url: str) -> dict[str, Any]:
    """What trl_client.py says of the server there. Raises AssertionError with its traceback."""
    running = await asyncio.create_subprocess_exec(
        PYTHON, CLIENT, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await running.communicate()
    assert running.returncode == 0, err.decode()
    found: dict[str, Any] = msgspec.json.decode(out)
    return found


async def test_trl_client_works_through_the_gateway() -> None:
    config = msgspec.structs.replace(
        shipped(BACKENDS=URLS), storage=StorageSettings(path=":memory:")
    )
    async with live(config) as gateway:
        told = await client_told(gateway.url)
        standing = (await gateway.client.get("/admin/trl")).json()
    assert (told["model"], told["world_size"], told["backend"]) == ("tiny", 1, "nccl")
    assert [len(ids) for ids in told["generate"]["completion_ids"]] == [4] * 4
    assert told["generate"]["prompt_ids"] == [[46, 728, 334, 295], [61, 267, 520]]
    assert len(told["text"]["completion_ids"]) == 2
    assert len(told["chat"]["completion_ids"]) == 4
    assert len(told["logprobs"]["logprobs"][0]) == 3
    assert [one["quarantined"] for one in standing["workers"]] == [None, None]
    assert not any(one["updating"] or one["paused"] for one in standing["workers"])


async def test_gateway_returns_the_choices_of_the_worker_itself() -> None:
    prompt = {"model": "tiny", "prompt": [[46, 728]], "max_tokens": 4, "temperature": 0}
    config = msgspec.structs.replace(
        shipped(BACKENDS=URLS), storage=StorageSettings(path=":memory:")
    )
    async with live(config) as gateway, httpx.AsyncClient(timeout=60) as direct:
        answer = await gateway.client.post("/v1/completions", json=prompt)
        same = await direct.post(f"{answer.headers['x-backend']}/v1/completions", json=prompt)
    assert answer.json()["choices"] == same.json()["choices"]


@pytest.mark.parametrize("pausing", [False, True], ids=["drained", "paused"])
async def test_updates_under_load_fail_no_call_and_kill_no_engine(*, pausing: bool) -> None:
    prompt = {"model": "tiny", "prompt": "Hello", "max_tokens": 60, "ignore_eos": True}
    config = msgspec.structs.replace(
        shipped(BACKENDS=URLS), storage=StorageSettings(path=":memory:")
    )
    async with live(config) as gateway:
        done = asyncio.Event()

        async def generate(number: int) -> list[int]:
            statuses: list[int] = []
            while not done.is_set():
                said = {**prompt, "prompt": f"{number} {len(statuses)}"}
                answer = await gateway.client.post("/v1/completions", json=said)
                statuses.append(answer.status_code)
            return statuses

        async def tell(path: str) -> None:
            answer = await gateway.client.post(path, json={})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-gateway-broadcast"].endswith("failed=")

        calls = [asyncio.create_task(generate(number)) for number in range(16)]
        for _ in range(5):
            await asyncio.sleep(1)  # between updates the callers work
            if pausing:
                await tell("/pause?mode=keep")
            await tell("/start_weight_update")
            await asyncio.sleep(0.2)  # a generation would end the engine now
            await tell("/finish_weight_update")
            await tell("/reset_prefix_cache")
            if pausing:
                await tell("/resume")
        done.set()
        statuses = [status for call in calls for status in await call]
        assert set(statuses) == {200}
        assert len(statuses) > 16
        for url in URLS.split(","):
            assert (await gateway.client.get(f"{url}/health")).status_code == 200
