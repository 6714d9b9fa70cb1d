"""Calls that wait: who may, who is let go, who is told why not."""

import asyncio
from pathlib import Path
from time import monotonic

import httpx
import pytest
from support.gateways.capturing import chat
from support.plugins.recording_plugin import until
from support.runtime.boxes import CHAT, QUICK, box, fleet_of, phases, reached, starts
from support.runtime.tiny_engines import tiny

from gateway import Call, Principal, Worker, hookimpl
from gateway.config import Config, StorageSettings
from gateway.testing import NO_PROBES, GatewayFor, Live, live

SLOW = "load=600"

OTHERS = ("probe", "circuit_breaker")
"""Who can doubt an engine, beside an operator who drains it."""


class Limited:
    """Gives each caller the workers in its header `x-workers`."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal:
        named = (call.header("x-workers") or "gpu").split()
        return Principal("ada", frozenset({"realtime"}), workers=frozenset(named))


class LeavesOut:
    """Leaves out all workers."""

    @hookimpl
    def filter_workers(self, call: Call, workers: list[Worker]) -> list[Worker]:
        return []


async def ask(live: Live, model: str | None = "a", **headers: str) -> tuple[int, str]:
    """Return the status, and the code of the error or the answer's model."""
    body = chat(model=model)
    if model is None:
        del body["model"]
    answer = await live.client.post(CHAT, json=body, headers=headers)
    told = answer.json()
    return answer.status_code, told["model"] if "model" in told else told["error"]["code"]


async def test_call_that_may_not_wait_makes_its_model_come_all_the_same(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), hold=0.0), workers=())
    assert await ask(live) == (503, "model_cold_start")
    await reached(live, lambda state: state == "hot(a)")
    assert await ask(live) == (200, "a")
    assert starts(tmp_path) == 1


@pytest.mark.slow
async def test_load_goes_on_for_callers_who_were_told_to_come_back(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = tiny("a", "load=1"), tiny("b")
    live = await gateway_for(box(tmp_path, *models, hold=0.2, rules=QUICK), workers=())
    assert await ask(live, "a") == (503, "model_cold_start")
    other = asyncio.create_task(ask(live, "b"))
    await reached(live, lambda state: state == "hot(a)")
    assert phases(live)[:2] == ["loading(a)", "hot(a)"]
    await other


@pytest.mark.slow
async def test_model_that_failed_is_tried_again_although_no_caller_may_wait_for_so_long(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    flaky = tiny("a", load_time=100.0)
    program = "import pathlib, sys; seen = pathlib.Path(sys.argv.pop(1))\n"
    program += "if not seen.exists(): seen.touch(); sys.exit(1)\n"
    flaky["command"][4] = program + flaky["command"][4]
    flaky["command"].insert(5, str(tmp_path / "seen"))
    live = await gateway_for(box(tmp_path, flaky, hold=2.0), workers=())
    assert await ask(live) == (503, "model_load_failed")
    assert await ask(live) == (503, "model_load_failed")
    await reached(live, lambda state: state == "hot(a)")
    assert await ask(live) == (200, "a")


async def test_waiting_calls_get_their_503_at_once_when_the_gateway_drains(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a", SLOW), grace=0.1), workers=())
    call = asyncio.create_task(ask(live))
    await until(lambda: len(fleet_of(live).holding) == 1)
    began = monotonic()
    await live.gateway.drain(60)
    assert monotonic() - began < 30
    assert await call == (503, "draining")


@pytest.mark.slow
async def test_no_load_begins_while_the_gateway_drains(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    models = tiny("a", "slow=2"), tiny("b")
    live = await gateway_for(box(tmp_path, *models, rules=QUICK), workers=())
    call = asyncio.create_task(ask(live, "a"))
    await reached(live, lambda state: state == "hot(a)")
    waiting = asyncio.create_task(ask(live, "b"))
    draining = asyncio.create_task(live.gateway.drain(60))
    assert await waiting == (503, "draining")
    assert await call == (200, "a")
    await draining
    assert starts(tmp_path) == 1


@pytest.mark.slow
async def test_caller_who_may_not_use_the_runtime_neither_waits_nor_loads(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a")), Limited, workers=())
    headers = {"x-workers": "another"}
    async with asyncio.timeout(30):
        assert await ask(live, **headers) == (503, "no_worker")
        assert starts(tmp_path) == 0
        assert await ask(live) == (200, "a")
        assert await ask(live, **headers) == (503, "no_worker")


@pytest.mark.slow
async def test_call_whose_workers_another_plugin_leaves_out_does_not_choose_for_ever(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    runtime = box(tmp_path, tiny("a"), runtime={"realtime": "a"})
    live = await gateway_for(LeavesOut, runtime, workers=())
    await reached(live, lambda state: state == "hot(a)")
    async with asyncio.timeout(30):
        assert await ask(live) == (503, "no_worker")


@pytest.mark.parametrize(
    "owner", ["drain", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)]
)
async def test_calls_go_on_as_soon_as_their_engine_is_fit_again(
    gateway_for: GatewayFor, tmp_path: Path, owner: str
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a")), workers=())
    assert await ask(live) == (200, "a")
    [worker] = live.gateway.workers.all
    worker.mark(owner, "down", "for the test")
    call = asyncio.create_task(ask(live))
    await until(lambda: len(fleet_of(live).holding) == 1)
    worker.clear(owner)
    async with asyncio.timeout(30):
        assert await call == (200, "a")


async def test_request_that_generates_nothing_is_no_reason_to_load(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a", SLOW), hold=30.0), workers=())
    async with asyncio.timeout(30):
        assert (await live.client.get("/v1/models")).status_code == 503
    assert len(fleet_of(live).holding) == 0
    assert starts(tmp_path) == 0


@pytest.mark.slow
async def test_stream_that_waits_with_comments_is_told_that_the_load_failed(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    broken = tiny("a", command=["/bin/sh", "-c", "sleep 0.5; echo no weights; exit 1"])
    restarts = {"first": 600, "longest": 600}
    live = await gateway_for(
        box(tmp_path, broken, comments=0.05, restarts=restarts, hold=30.0), workers=()
    )
    received: list[bytes] = []
    request = live.client.stream("POST", CHAT, json=chat(model="a", stream=True))
    async with request as stream:
        with pytest.raises(httpx.RemoteProtocolError):
            await _gather(stream, received)
    told = b"".join(received)
    assert told.startswith(b": waiting\n\n")
    assert b'"gateway_code":"model_load_failed"' in told


async def _gather(stream: httpx.Response, found: list[bytes]) -> None:
    async for data in stream.aiter_raw():
        found.append(data)  # noqa: PERF401  it raises at the end


@pytest.mark.slow
async def test_many_callers_are_let_go_together_and_those_who_left_leave_nothing(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a", "load=2")), workers=())
    calls = [asyncio.create_task(ask(live)) for _ in range(60)]
    await until(lambda: len(fleet_of(live).holding) == 60)
    for call in calls[::2]:
        call.cancel()
    await until(lambda: len(fleet_of(live).holding) == 30)
    assert await asyncio.gather(*calls[1::2]) == [(200, "a")] * 30
    assert len(fleet_of(live).holding) == 0
    assert not live.gateway.calls_in_flight


@pytest.mark.slow
async def test_call_by_a_short_name_waits_and_counts_for_the_model_of_the_tag(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a:latest"), tiny("b")), workers=())
    assert await ask(live, "a") == (200, "a:latest")
    assert fleet_of(live).demands()["a:latest"].realtime_at is not None


@pytest.mark.slow
async def test_pinned_model_is_the_one_that_is_loaded(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await gateway_for(box(tmp_path, tiny("a"), tiny("b")), workers=(), model="b")
    assert await ask(live, "a") == (200, "b")
    assert phases(live) == ["loading(b)", "hot(b)"]


async def test_gateway_that_can_load_is_ready_and_one_that_does_not_own_the_engines_is_not(
    tmp_path: Path,
) -> None:
    runtime = box(tmp_path, tiny("a"))
    storage = StorageSettings(path=str(tmp_path / "gateway.db"))
    config = Config(plugins=(runtime,), probes=NO_PROBES, storage=storage)
    async with live(config) as first, live(config) as second:
        await until(lambda: fleet_of(first).is_owner and first.gateway.workers.loads)
        assert (await first.client.get("/ready")).json() == {"status": "ready"}
        assert (await first.client.get("/health")).json() == {"status": "ok"}
        assert (await second.client.get("/ready")).status_code == 503
        assert "another gateway" in (await second.client.get("/health")).json()["reason"]
