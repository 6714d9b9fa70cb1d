"""A real vLLM that sleeps: `VLLM_HOME=DIR pytest -m vllm tests/runtime -n 0 --timeout 900`.

On a CPU vLLM sleeps without giving memory back, so this shows its requests and answers alone.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from gateway_plugins.runtime.drivers.driver import Exit, Launch
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.process import ProcessDriver
from gateway_plugins.runtime.drivers.sleep_requests import SleepRequests
from gateway_plugins.runtime.drivers.sleeping import SleepingDriver
from gateway_plugins.runtime.loading.engines import command_of, environment_of
from support.plugins.recording_plugin import until
from support.runtime.real_vllm import tiny_model
from support.runtime.small_engines import Printed, launch

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture
def asked() -> Launch:
    """A start without --enable-sleep-mode, which vLLM refuses on a CPU."""
    plain, model = launch(()), tiny_model(VLLM_SERVER_DEV_MODE="1")
    command = command_of(model, plain.host, plain.port, os.environ, length=2_048)
    return msgspec.structs.replace(plain, command=command, environment=environment_of(model, {}))


@pytest.fixture
async def client(asked: Launch) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=asked.url, timeout=600) as client:
        yield client


async def text(client: httpx.AsyncClient) -> str:
    body = {"model": "tiny", "prompt": "one two", "max_tokens": 8, "temperature": 0}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


async def loaded(printed: Printed) -> None:
    async with asyncio.timeout(300):
        while b"Application startup complete" not in printed.data:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("level", [1, 2])
async def test_vllm_that_is_stopped_sleeps_holds_calls_and_wakes(
    asked: Launch, client: httpx.AsyncClient, tmp_path: Path, level: int
) -> None:
    driver, printed = SleepingDriver(ProcessDriver(str(tmp_path)), level), Printed()
    try:
        engine = await driver.start(asked, printed)
        await loaded(printed)
        before = await text(client)
        await engine.stop(30)
        assert await engine.ended() == Exit(0)
        assert await SleepRequests(asked.url).is_sleeping()
        waiting = asyncio.create_task(text(client))
        await until(lambda: b"sleep mode is not supported on CPU" in printed.data)
        assert not waiting.done()
        again = await driver.start(asked, Printed())
        assert await waiting == before
        assert await text(client) == before
        process = int(again.identity.split()[1].rstrip(","))
    finally:
        await driver.close(30)
    assert not alive(process)
