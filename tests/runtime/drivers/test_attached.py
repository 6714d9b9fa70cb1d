"""Engines that somebody else runs, woken and put to sleep by the gateway."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from gateway_plugins.runtime.drivers.attached import AttachedDriver
from gateway_plugins.runtime.drivers.driver import Exit, StartFailed
from gateway_plugins.runtime.drivers.sleep_requests import SleepRequests
from support.ports import free_port
from support.runtime.small_engines import launch

from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import MESSAGES

LAUNCH = launch(())


def ignore(_: bytes) -> None:
    pass


@pytest.fixture
async def engine() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(development=True)) as running:
        yield running


async def text(url: str) -> str:
    body = {"messages": [dict(one) for one in MESSAGES], "temperature": 0, "max_tokens": 8}
    async with httpx.AsyncClient(base_url=url) as client:
        answer = (await client.post("/v1/chat/completions", json=body)).json()
    found: str = answer["choices"][0]["message"]["content"]
    return found


@pytest.mark.parametrize("path", ["", "/", "/v1"])
@pytest.mark.parametrize("level", [1, 2])
async def test_attached_engine_is_woken_and_put_to_sleep(
    engine: Simulator, level: int, path: str
) -> None:
    before = await text(engine.url)
    requests = SleepRequests(engine.url)
    driver = AttachedDriver(f"{engine.url}{path}", level)
    for generation in (1, 2):
        asked = msgspec.structs.replace(LAUNCH, generation=generation)
        started = await driver.start(asked, ignore)
        assert started.url == f"{engine.url}{path}"
        assert await text(engine.url) == before
        await asyncio.gather(started.stop(0), started.stop(0))
        assert await requests.is_sleeping()
        assert await started.ended() == Exit(0)


async def test_weights_are_loaded_anew_if_it_is_unknown_how_deeply_an_engine_sleeps(
    engine: Simulator,
) -> None:
    before = await text(engine.url)
    await SleepRequests(engine.url).sleep(2)
    started = await AttachedDriver(engine.url, 1).start(LAUNCH, ignore)
    assert await text(engine.url) == before
    await started.end(0)


async def test_clear_puts_an_engine_that_is_awake_to_sleep(
    engine: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        await AttachedDriver(engine.url, 1).clear("gpu")
        assert await SleepRequests(engine.url).is_sleeping()
    assert caplog.text == ""
    await AttachedDriver(f"http://127.0.0.1:{free_port()}", 1).clear("gpu")
    assert "an engine is not put to sleep" in caplog.text


async def test_start_of_an_engine_that_is_not_there_or_cannot_sleep_fails(
    simulator: Simulator,
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StartFailed, match=f"model m: GET {url}/is_sleeping"):
        await AttachedDriver(url, 1).start(LAUNCH, ignore)
    with pytest.raises(StartFailed, match="--enable-sleep-mode"):
        await AttachedDriver(simulator.url, 1).start(LAUNCH, ignore)
    with pytest.raises(StartFailed, match="no address"):
        await AttachedDriver("http://no address:x", 1).start(LAUNCH, ignore)


async def test_attached_engine_that_goes_away_or_is_put_to_sleep_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Simulator(SimulatorConfig(development=True)) as engine:
        driver = AttachedDriver(engine.url, 1, poll=0.01)
        started = await driver.start(LAUNCH, ignore)
        await SleepRequests(engine.url).sleep(1)
        assert await started.ended() == Exit(None)
        again = await driver.start(LAUNCH, ignore)
    assert await again.ended() == Exit(None)
    assert "is gone, or was put to sleep" in caplog.text
    await again.stop(0)
    assert "may hold its memory" in caplog.text
    assert await again.ended() == Exit(None)


@pytest.mark.parametrize("turns", [0, 2, 10, 30])
async def test_attached_engine_whose_start_is_given_up_sleeps(
    engine: Simulator, turns: int
) -> None:
    await SleepRequests(engine.url).sleep(1)
    starting = asyncio.create_task(AttachedDriver(engine.url, 1).start(LAUNCH, ignore))
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await SleepRequests(engine.url).is_sleeping()
