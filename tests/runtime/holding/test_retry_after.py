"""How long a caller is told to wait: as long as loads of that model have taken."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from gateway_plugins.runtime.holding.errors import ModelColdStart, Progress
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import chat
from support.runtime.boxes import CHAT, box, fleet_of

from gateway.config import Config, StorageSettings
from gateway.testing import NO_PROBES, Live, live

NEVER = {"command": ["/bin/sleep", "600"], "load_time": 50.0}
"""An engine that loads for ever."""


@asynccontextmanager
async def gateway(folder: Path, hold: float = 0.0) -> AsyncIterator[Live]:
    """A gateway with two such models, and the database that earlier ones have left."""
    plugin = box(folder, {"name": "a", **NEVER}, {"name": "b", **NEVER}, hold=hold, grace=0.1)
    storage = StorageSettings(path=str(folder / "gateway.db"))
    async with live(Config(plugins=(plugin,), storage=storage, probes=NO_PROBES)) as running:
        yield running


async def refused(running: Live, model: str) -> httpx.Response:
    answer = await running.client.post(CHAT, json=chat(model=model))
    assert answer.status_code == 503
    return answer


async def test_fault_2_6_retry_after_is_the_average_of_the_model_s_own_loads_over_restarts(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path) as first:
        assert (await refused(first, "a")).headers["retry-after"] == "50"
        for seconds in (10.0, 20.0):
            await fleet_of(first).memory.loaded("a", seconds)
    async with gateway(tmp_path) as second:
        assert (await refused(second, "a")).headers["retry-after"] == "13"
        assert (await refused(second, "b")).headers["retry-after"] == "50"


async def test_fault_2_6_body_tells_the_phase_and_what_is_left_of_the_load(tmp_path: Path) -> None:
    async with gateway(tmp_path) as running:
        await fleet_of(running).memory.loaded("a", 30.2)
        cold = (await refused(running, "a")).json()
        assert (cold["phase"], cold["retry_after"]) == ("waiting", 31)
        assert cold["error"]["code"] == "model_cold_start"
    async with gateway(tmp_path, hold=0.5) as running:
        told = (await refused(running, "a")).json()
    assert (told["phase"], told["retry_after"]) == ("loading", 30)
    assert told["estimated_ready_in_seconds"] == 30
    assert 0 < told["elapsed_s"] < 1.2  # a busy machine starts it late


@pytest.mark.parametrize(("remaining", "told"), [(0.0, 1), (0.2, 1), (1e9, 59), (math.inf, 59)])
def test_fault_2_6_retry_after_has_bounds(remaining: float, told: int) -> None:
    assert _told(remaining) == told


@given(st.floats(0, allow_nan=False))
def test_fault_2_6_retry_after_is_never_shorter_than_the_wait_within_its_bounds(
    remaining: float,
) -> None:
    assert min(max(remaining, 1), 59) <= _told(remaining) <= 59


def _told(remaining: float) -> int:
    error = ModelColdStart("cold", Progress(phase="loading", elapsed=0.0, remaining=remaining))
    [(name, value)] = error.headers
    assert name == b"retry-after"
    return int(value)
