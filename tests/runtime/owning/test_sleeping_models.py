"""Two models that sleep rather than end, on one runtime."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.runtime.drivers.machine.processes import alive
from gateway_plugins.runtime.drivers.sleep_requests import SleepRequests
from support.gateways.capturing import chat
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model

from gateway.config import Config, StorageSettings
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import Live, live

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def alone(folder: Path, *models: dict[str, Any]) -> AsyncIterator[Live]:
    """A gateway of these models, which ends with the block."""
    storage = StorageSettings(path=str(folder / "gateway.db"))
    async with live(Config(plugins=(box(folder, *models, rules=QUICK),), storage=storage)) as one:
        yield one


async def test_models_that_sleep_take_turns_without_a_new_start(tmp_path: Path) -> None:
    asleep = [
        model(name, "--development", sleep_level=level) for name, level in (("a", 1), ("b", 2))
    ]
    seen: dict[str, set[tuple[int, str]]] = {"a": set(), "b": set()}
    async with alone(tmp_path, *asleep) as gateway:
        [owner] = fleet_of(gateway).owners
        for name in ("a", "b", "a", "b"):
            answer = await gateway.client.post(CHAT, json=chat(model=name, temperature=0))
            process = int(str(owner.identity).split()[1].rstrip(","))
            seen[name].add((process, answer.json()["choices"][0]["message"]["content"]))
        assert [len(found) for found in seen.values()] == [1, 1]
        processes = [process for found in seen.values() for process, _ in found]
        assert all(map(alive, processes))
    assert not any(map(alive, processes))


async def test_model_whose_engine_somebody_else_runs_is_woken_for_its_calls(
    tmp_path: Path,
) -> None:
    async with Simulator(SimulatorConfig(model="far", development=True)) as engine:
        far = {"name": "far", "url": engine.url, "sleep_level": 1}
        requests = SleepRequests(engine.url)
        async with alone(tmp_path, far, model("near")) as gateway:
            for name in ("far", "near", "far"):
                answer = await gateway.client.post(CHAT, json=chat(model=name))
                assert answer.json()["model"] == name
                assert await requests.is_sleeping() == (name == "near")
        assert await requests.is_sleeping()
