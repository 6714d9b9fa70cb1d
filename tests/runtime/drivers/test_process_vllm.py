"""A real vLLM as a process: `VLLM_HOME=DIR pytest -m vllm tests/runtime -n 0 --timeout 900`."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.process import ProcessDriver, ProcessEngine
from gateway_plugins.runtime.loading.engines import command_of, environment_of
from gateway_plugins.runtime.loading.failures import Failure, hint
from gateway_plugins.runtime.loading.log import EngineLog
from gateway_plugins.runtime.loading.readiness import asking, wait_until_ready
from gateway_plugins.runtime.options import Model
from support.ports import free_port
from support.runtime.real_vllm import tiny_model
from support.runtime.small_engines import launch

from gateway import Worker, config

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture
def tiny() -> Model:
    return tiny_model()


Started = tuple[ProcessEngine, EngineLog, Failure | None]


@asynccontextmanager
async def started(model: Model, folder: Path, length: int) -> AsyncIterator[Started]:
    port, began = free_port(), monotonic()
    command = command_of(model, "127.0.0.1", port, os.environ, length=length)
    log = await EngineLog.open(folder / "logs", model.name, ())
    given = launch(command, port=port, environment=environment_of(model, {}))
    engine = await ProcessDriver(str(folder)).start(given, log.write)
    settings = config.Worker(url=engine.url)
    worker = Worker(settings, config.Timeouts(), config.ServerLimits())
    try:
        yield engine, log, await wait_until_ready(model, engine, log, asking(worker), began=began)
    finally:
        worker.close()
        await engine.stop(30)
        await log.close()


def shared_memory() -> set[str]:
    return {one.name for one in Path("/dev/shm").glob("psm_*")}


async def test_fault_6_11_nothing_of_vllm_is_left_after_a_kill_of_its_server(
    tiny: Model, tmp_path: Path
) -> None:
    before = shared_memory()
    async with started(tiny, tmp_path, 2_048) as (engine, _, failure):
        assert failure is None
        os.kill(int(engine.identity.split()[1]), signal.SIGKILL)
        assert (await engine.ended()).code == 137
        family = engine._family.seen
        assert len(family) >= 2, "its engine core is a process of its own"
        assert not any(map(alive, family))
        assert shared_memory() <= before


async def test_the_kv_cache_hint_of_vllm_leads_to_a_length_that_fits(
    tiny: Model, tmp_path: Path
) -> None:
    async with started(tiny, tmp_path, 200_000) as (_, log, failure):
        assert failure is not None
        assert failure.reason == "runtime_oom"
        length = hint(log.tail)
    assert length is not None
    async with started(tiny, tmp_path, length) as (engine, _, failure):
        assert failure is None
        await engine.stop(30)
        assert (await engine.ended()).code == 0
