"""Several runtimes: models side by side, and one model on two of them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.ports import free_port
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model, starts

from gateway.testing import GatewayFor

pytestmark = pytest.mark.slow


def runtime(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "port": free_port(), **options}


async def test_two_models_run_side_by_side_and_neither_is_loaded_twice(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    runtimes = [runtime("one"), runtime("two")]
    both = box(tmp_path, model("a"), model("b"), rules=QUICK, runtimes=runtimes)
    live = await gateway_for(both, workers=())
    names = ["a", "b"] * 5
    calls = [live.client.post(CHAT, json=chat(model=name)) for name in names]
    answers = await asyncio.gather(*calls)
    assert [answer.json()["model"] for answer in answers] == names
    assert starts(tmp_path) == 2
    assert {owner.state.model for owner in fleet_of(live).owners} == {"a", "b"}


async def test_model_that_is_the_realtime_model_of_two_runtimes_is_on_both(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    runtimes = [runtime("one", realtime="a"), runtime("two", realtime="a")]
    both = box(tmp_path, model("a"), model("b"), rules=QUICK, runtimes=runtimes)
    live = await gateway_for(both, workers=())
    owners = fleet_of(live).owners
    await until(lambda: all(str(owner.state) == "hot(a)" for owner in owners))
    answers = [await live.client.post(CHAT, json=chat(model="a")) for _ in range(4)]
    assert {answer.headers["x-gateway-worker"] for answer in answers} == {"one", "two"}


async def test_runtime_loads_only_the_models_that_it_may(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    runtimes = [runtime("one", models=["a"]), runtime("two", models=["b"])]
    both = box(tmp_path, model("a"), model("b"), rules=QUICK, runtimes=runtimes)
    live = await gateway_for(both, workers=())
    for name, place in (("b", "two"), ("a", "one")):
        answer = await live.client.post(CHAT, json=chat(model=name))
        assert answer.headers["x-gateway-worker"] == place
