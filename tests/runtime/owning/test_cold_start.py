"""Calls for a model that is not there: held, answered after one load, or told why not."""

import asyncio
import sys
from pathlib import Path
from time import monotonic

import httpx
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, model, phases, reached, starts
from support.runtime.tiny_engines import tiny

from gateway import Call, Principal, hookimpl
from gateway.config import Config
from gateway.testing import NO_PROBES, GatewayFor, Live, live

NEVER_READY = [sys.executable, "-c", "import time; time.sleep(600)"]
CRASHES = [sys.executable, "-c", "import sys; sys.exit('no weights in sight')"]


class Scopes:
    """Gives each caller the scopes in its header `x-scopes`."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal:
        return Principal("ada", frozenset((call.header("x-scopes") or "realtime").split()))


async def test_fault_2_9_fifty_callers_at_a_cold_model_cause_one_start(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), rules=QUICK), workers=())
    calls = [live.client.post(CHAT, json=chat(model="a")) for _ in range(50)]
    answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 50
    assert starts(tmp_path) == 1
    assert phases(live) == ["loading(a)", "hot(a)"]
    assert len(fleet_of(live).holding) == 0


async def test_fault_2_8_realtime_model_that_loads_at_the_start_is_launched_once(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    realtime = box(tmp_path, tiny("a"), rules=QUICK, runtime={"realtime": "a"})
    live = await gateway_for(realtime, workers=())
    await reached(live, lambda state: state == "loading(a)")
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    assert starts(tmp_path) == 1


async def test_call_that_waits_in_vain_gets_503_with_the_members_of_old(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    slow = tiny("a", command=NEVER_READY, load_time=30)
    live = await gateway_for(box(tmp_path, slow, hold=0.4), workers=())
    answer = await live.client.post(CHAT, json=chat(model="a"))
    told = answer.json()
    assert (answer.status_code, told["error"]["code"]) == (503, "model_cold_start")
    assert told["type"] == "model_cold_start"
    assert int(answer.headers["retry-after"]) == told["retry_after"]
    assert 25 <= told["estimated_ready_in_seconds"] <= 30
    assert (told["phase"], told["reason"]) == ("loading", None)
    assert 0 < told["elapsed_s"] < 5


async def test_fault_2_7_call_for_a_model_that_cannot_be_loaded_is_told_why(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    restarts = {"first": 60, "longest": 60}
    broken = tiny("a", command=CRASHES)
    live = await gateway_for(box(tmp_path, broken, hold=30, restarts=restarts), workers=())
    answer = await live.client.post(CHAT, json=chat(model="a"))
    told = answer.json()
    assert (answer.status_code, told["error"]["code"]) == (503, "model_load_failed")
    assert (told["type"], told["reason"]) == ("model_load_failed", "runtime_crashed")
    assert 50 <= told["retry_after"] <= 59
    assert "runtime" in (await live.client.get("/health")).text


async def test_fault_6_1_model_that_failed_is_tried_again_while_its_callers_wait(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    flaky = tiny("a")
    program = "import pathlib, sys; seen = pathlib.Path(sys.argv.pop(1))\n"
    program += "if not seen.exists(): seen.touch(); sys.exit(1)\n"
    flaky["command"][4] = program + flaky["command"][4]
    flaky["command"].insert(5, str(tmp_path / "seen"))
    live = await gateway_for(box(tmp_path, flaky), workers=())
    answer = await live.client.post(CHAT, json=chat(model="a"))
    assert answer.status_code == 200
    states = phases(live)
    assert [state.partition("(")[0] for state in states] == ["loading", "failed", "loading", "hot"]


async def test_calls_beyond_the_most_that_may_wait_get_503_but_not_those_of_evaluators(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    slow = box(tmp_path, tiny("a", command=NEVER_READY), max_held=1)
    live = await gateway_for(slow, Scopes, workers=())
    first = asyncio.create_task(live.client.post(CHAT, json=chat(model="a")))
    await until(lambda: len(fleet_of(live).holding) == 1)
    second = await live.client.post(CHAT, json=chat(model="a"))
    assert (second.status_code, second.json()["type"]) == (503, "model_cold_start")
    headers = {"x-scopes": "realtime evaluator"}
    third = asyncio.create_task(live.client.post(CHAT, json=chat(model="a"), headers=headers))
    await until(lambda: len(fleet_of(live).holding) == 2)
    for call in (first, third):
        call.cancel()
    await until(lambda: len(fleet_of(live).holding) == 0)


async def test_call_of_an_evaluator_waits_longer_than_others_may(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), hold=0.0), Scopes, workers=())
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 503
    headers = {"x-scopes": "realtime evaluator"}
    answer = await live.client.post(CHAT, json=chat(model="a"), headers=headers)
    assert answer.status_code == 200


async def test_stream_that_waits_gets_comments_and_then_its_events(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, model("a"), comments=0.05), workers=())
    answer = await live.client.post(CHAT, json=chat(model="a", stream=True))
    assert answer.status_code == 200
    assert answer.text.startswith(": waiting\n\n")
    assert answer.text.rstrip().endswith("data: [DONE]")


async def test_fault_2_13_call_for_an_unknown_model_is_no_activity(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), tiny("b")), workers=())
    answer = await live.client.post(CHAT, json=chat(model="c"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    demands = fleet_of(live).demands()
    assert {name: demand.realtime_at for name, demand in demands.items()} == {"a": None, "b": None}
    before = monotonic()
    assert (await live.client.post(CHAT, json=chat(model="a"))).status_code == 200
    at = fleet_of(live).demands()["a"].realtime_at
    assert at is not None
    assert at >= before


async def test_call_that_names_no_model_gets_the_realtime_model(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    realtime = box(tmp_path, tiny("a"), tiny("b"), runtime={"realtime": "b"})
    live = await gateway_for(realtime, workers=())
    body = chat()
    del body["model"]
    assert (await live.client.post(CHAT, json=body)).json()["model"] == "b"


async def test_models_route_lists_all_that_can_be_loaded(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for("openai_models", box(tmp_path, tiny("a"), tiny("b")), workers=())
    assert _models(await live.client.get("/v1/models")) == ["a", "b"]
    assert (await live.client.post(CHAT, json=chat(model="b"))).status_code == 200
    assert _models(await live.client.get("/v1/models")) == ["a", "b"]


def _models(answer: httpx.Response) -> list[str]:
    return sorted(card["id"] for card in answer.json()["data"])


async def test_engine_is_gone_when_the_gateway_has_ended(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    config = Config(plugins=(box(tmp_path, tiny("a")),), probes=NO_PROBES)
    async with live(config) as gateway:
        assert (await gateway.client.post(CHAT, json=chat(model="a"))).status_code == 200
        identity = _identity(gateway)
        assert _lives(identity)
    assert not _lives(identity)


def _identity(live: Live) -> str:
    [owner] = fleet_of(live).owners
    assert owner.identity is not None
    return owner.identity


def _lives(identity: str) -> bool:
    return Path(f"/proc/{identity.removeprefix('process ')}").exists()
