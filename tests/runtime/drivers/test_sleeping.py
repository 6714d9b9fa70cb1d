"""Engines that sleep rather than end, started as processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from gateway_plugins.runtime.drivers.driver import Exit, Launch
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.process import ProcessDriver
from gateway_plugins.runtime.drivers.sleep_requests import SleepFailed, SleepRequests
from gateway_plugins.runtime.drivers.sleeping import MAX_KEPT, KeptOutput, SleepingDriver
from support.plugins.recording_plugin import until
from support.runtime.sleeping_engine import sleeping_engine
from support.runtime.small_engines import Printed, gone, launch

from gateway.testing import MESSAGES

SIMULATE = "from gateway.cli import main; main()"


@pytest.fixture
def level() -> int:
    return 1


@pytest.fixture
async def driver(tmp_path: Path, level: int) -> AsyncIterator[SleepingDriver]:
    driver = SleepingDriver(ProcessDriver(str(tmp_path)), level)
    yield driver
    await driver.close(0)


def simulated(*options: str) -> Launch:
    """A start of the simulator."""
    plain = launch(())
    command = (sys.executable, "-c", SIMULATE, "simulate", "--port", str(plain.port), *options)
    environment = {"PYTHONPATH": ":".join(sys.path)}
    return msgspec.structs.replace(plain, command=command, environment=environment)


async def listens(printed: Printed) -> None:
    await until(lambda: b"Uvicorn running on" in printed.data)


async def text(url: str) -> str:
    body = {"messages": [dict(one) for one in MESSAGES], "temperature": 0, "max_tokens": 8}
    async with httpx.AsyncClient(base_url=url) as client:
        answer = (await client.post("/v1/chat/completions", json=body)).json()
    found: str = answer["choices"][0]["message"]["content"]
    return found


@pytest.mark.parametrize("level", [1, 2])
async def test_engine_that_is_stopped_sleeps_and_is_woken_with_its_weights(
    driver: SleepingDriver, level: int
) -> None:
    printed = Printed()
    asked = simulated("--development")
    first = await driver.start(asked, printed)
    await listens(printed)
    before = await text(first.url)
    await first.stop(0)
    assert await first.ended() == Exit(0)
    assert await SleepRequests(asked.url).is_sleeping()
    again = msgspec.structs.replace(asked, generation=2)
    second = await driver.start(again, Printed())
    assert await text(second.url) == before
    assert first.identity.partition(",")[0] == second.identity.partition(",")[0]
    assert first.identity != second.identity
    await driver.close(0)
    assert await second.ended() == Exit(137)
    assert await first.ended() == Exit(0)


async def test_engine_without_development_endpoints_is_ended(
    driver: SleepingDriver, caplog: pytest.LogCaptureFixture
) -> None:
    printed = Printed()
    asked = simulated()
    engine = await driver.start(asked, printed)
    await listens(printed)
    await engine.stop(10)
    assert (await engine.ended()).code in (0, 143)
    assert "VLLM_SERVER_DEV_MODE=1" in caplog.text


async def test_engine_that_does_not_listen_yet_is_ended(driver: SleepingDriver) -> None:
    printed = Printed()
    engine = await driver.start(launch("say('leader', os.getpid()); stay()"), printed)
    pid = await printed.pid("leader")
    await asyncio.gather(engine.stop(0), engine.stop(0))
    assert not alive(pid)
    assert (await engine.ended()).code == 137
    await engine.end(0)


@pytest.mark.parametrize("fault", ["fail/sleep", "idle/sleep", "babble/is_sleeping"])
async def test_engine_that_does_not_fall_asleep_is_ended(
    driver: SleepingDriver, fault: str
) -> None:
    printed = Printed()
    engine = await driver.start(sleeping_engine(fault), printed)
    pid = await printed.pid("leader")
    await engine.stop(0)
    assert not alive(pid)
    assert await engine.ended() == Exit(137)


@pytest.mark.parametrize("fault", ["fail/wake_up", "idle/wake_up"])
async def test_engine_that_does_not_wake_is_ended_and_started_anew(
    driver: SleepingDriver, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Printed(), Printed()
    asked = sleeping_engine(fault)
    engine = await driver.start(asked, first)
    pid = await first.pid("leader")
    await engine.stop(0)
    assert alive(pid)
    anew = await driver.start(asked, second)
    assert not alive(pid)
    assert alive(await second.pid("leader"))
    assert "does not wake" in caplog.text
    await anew.end(0)


async def test_engine_that_died_asleep_is_started_anew(
    driver: SleepingDriver, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Printed(), Printed()
    asked = sleeping_engine()
    engine = await driver.start(asked, first)
    pid = await first.pid("leader")
    await engine.stop(0)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    await driver.start(asked, second)
    assert await second.pid("leader") != pid
    assert "started anew" in caplog.text


async def test_death_while_awake_is_an_event_of_the_latest_start_only(
    driver: SleepingDriver,
) -> None:
    printed = Printed()
    asked = sleeping_engine()
    first = await driver.start(asked, printed)
    pid = await printed.pid("leader")
    await first.stop(0)
    second = await driver.start(asked, Printed())
    os.kill(pid, signal.SIGKILL)
    assert await second.ended() == Exit(137)
    assert await first.ended() == Exit(0)
    await second.stop(0)


async def test_start_that_is_given_up_while_waking_leaves_nothing(driver: SleepingDriver) -> None:
    first, second = Printed(), Printed()
    asked = sleeping_engine("hang/wake_up")
    engine = await driver.start(asked, first)
    pid = await first.pid("leader")
    await engine.stop(0)
    waking = asyncio.create_task(driver.start(asked, second))
    await second.line("POST /wake_up")
    waking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waking
    assert not alive(pid)


async def test_engine_that_has_failed_is_ended_and_not_woken(driver: SleepingDriver) -> None:
    first, second = Printed(), Printed()
    asked = sleeping_engine()
    engine = await driver.start(asked, first)
    pid = await first.pid("leader")
    await engine.end(0)
    assert not alive(pid)
    assert await engine.ended() == Exit(137)
    await driver.start(asked, second)
    assert await second.pid("leader") != pid


async def test_engines_of_a_killed_gateway_do_not_sleep_on(tmp_path: Path) -> None:
    printed = Printed()
    engine = await SleepingDriver(ProcessDriver(str(tmp_path)), 1).start(sleeping_engine(), printed)
    pid = await printed.pid("leader")
    await engine.stop(0)
    await SleepingDriver(ProcessDriver(str(tmp_path)), 1).clear("gpu")
    assert not alive(pid)


async def test_what_is_printed_asleep_is_in_the_log_of_the_next_start(
    driver: SleepingDriver,
) -> None:
    first, second = Printed(), Printed()
    asked = sleeping_engine()
    engine = await driver.start(asked, first)
    await first.line("leader")
    await engine.stop(0)
    async with httpx.AsyncClient() as client:
        await client.get(f"{asked.url}/while-asleep")
    await driver.start(asked, second)
    assert await second.line("GET /while-asleep") == ""
    assert b"while-asleep" not in first.data


def test_what_is_printed_asleep_is_bounded() -> None:
    output = KeptOutput()
    for number in range(10_000):
        output(b"%099d\n" % number)
    printed = Printed()
    output.to(printed)
    assert len(printed.data) == MAX_KEPT
    assert printed.data.endswith(b"0009999\n")
    output(b"awake")
    output.to(None)
    assert printed.data.endswith(b"\nawake")


async def test_wake_at_level_2_loads_the_weights_before_calls_may_begin(
    driver: SleepingDriver,
) -> None:
    printed = Printed()
    engine = await driver.start(sleeping_engine(), printed)
    await printed.line("leader")
    await SleepRequests(engine.url).wake(2)
    assert printed.data.decode().splitlines()[1:] == [
        "POST /wake_up?tags=weights",
        "POST /collective_rpc",
        "POST /wake_up?tags=kv_cache",
        "GET /is_sleeping",
    ]


async def test_answer_without_end_is_cut(driver: SleepingDriver) -> None:
    printed = Printed()
    engine = await driver.start(sleeping_engine("flood/is_sleeping"), printed)
    await printed.line("leader")
    with pytest.raises(SleepFailed, match="is_sleeping"):
        await SleepRequests(engine.url).is_sleeping()
