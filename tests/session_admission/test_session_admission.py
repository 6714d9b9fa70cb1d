"""Sessions before real workers: who is hot where, who waits for whom, and who is told what."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_plugins.session_admission import SessionAdmission
from gateway_plugins.session_admission.options import Options

from gateway import ConfigError, Worker, config, hookimpl
from gateway.calls.call import Call
from gateway.calls.records import Principal
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, entry

FINAL = {"x-dynamo-session-final": "true"}


class Names:
    """Callers are whom a header says."""

    @hookimpl
    def authenticate(self, call: Call) -> Principal:
        scopes = (call.header("x-scopes") or "realtime monitor trainer admin").split()
        return Principal(call.header("x-principal") or "me", frozenset(scopes))


class Last:
    """Another plugin that always wants the last worker, and thinks about it."""

    @hookimpl
    async def pick_worker(self, workers: list[Worker]) -> Worker:
        await asyncio.sleep(0)
        return workers[-1]


@contextlib.asynccontextmanager
async def fleet_of(count: int) -> AsyncIterator[list[config.Worker]]:
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(Simulator()) for _ in range(count)]
        yield [config.Worker(url=one.url, worker_id=f"gpu-{at}") for at, one in enumerate(running)]


async def turn(live: Live, session: str | None, **headers: str) -> httpx.Response:
    path = "/v1/chat/completions" if session is None else f"/sessions/{session}/v1/chat/completions"
    body = {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await live.client.post(path, json=body, headers=named)


async def at(live: Live, session: str | None, **headers: str) -> str:
    """The worker of a turn that goes well."""
    answer = await turn(live, session, **headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-gateway-worker"]


async def report(live: Live) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (await live.client.get("/admin/admission")).json()
    return found


async def until_waiting(live: Live, count: int) -> None:
    async with asyncio.timeout(30):
        while (await report(live))["waiting"] != count:
            pass


async def hot(live: Live) -> dict[str, int]:
    return {name: one["hot"] for name, one in (await report(live))["workers"].items()}


async def test_sessions_stay_where_they_are_hot(gateway_for: GatewayFor) -> None:
    async with fleet_of(3) as workers:
        admission = entry("session_admission", max_hot_per_worker=2)
        live = await gateway_for("sessions", admission, "stickiness", workers=workers)
        homes = {f"s{number}": await at(live, f"s{number}") for number in range(6)}
        assert await hot(live) == {"gpu-0": 2, "gpu-1": 2, "gpu-2": 2}
        assert {one: await at(live, one) for one in homes} == homes
        assert await at(live, None), "a call without a session needs no place"


async def test_session_admission_asks_other_plugins_which_worker(gateway_for: GatewayFor) -> None:
    async with fleet_of(3) as workers:
        admission = entry("session_admission", max_hot_per_worker=1)
        live = await gateway_for("sessions", admission, Last, workers=workers)
        found = [await at(live, f"s{number}") for number in range(3)]
        assert found == ["gpu-2", "gpu-1", "gpu-0"]


async def test_session_waits_until_another_one_is_deleted(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with fleet_of(1) as workers:
        live = await gateway_for(
            "sessions",
            entry("session_admission", max_hot_per_worker=1, ttl=3600),
            "trace_capture",
            workers=workers,
            storage={"path": str(tmp_path / "gateway.db")},
        )
        await at(live, "one")
        waiting = asyncio.create_task(at(live, "two"))
        await until_waiting(live, 1)
        assert await at(live, "one"), "a hot session goes on, whoever waits"
        assert (await live.client.delete("/sessions/one")).json()["deleted"] > 0
        assert await waiting == "gpu-0"
        found = await report(live)
        assert (found["left_places"]["deleted"], found["counts"]["waited"]) == (1, 1)


async def test_session_gives_its_place_up_with_its_final_turn(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1, ttl=3600)
        live = await gateway_for("sessions", admission, workers=workers)
        await at(live, "one")
        waiting = asyncio.create_task(at(live, "two"))
        await until_waiting(live, 1)
        await at(live, "one", **FINAL)
        assert await waiting == "gpu-0"


async def test_session_is_cold_after_its_time(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1, ttl=0.05)
        live = await gateway_for("sessions", admission, workers=workers)
        for session in ("one", "two", "one"):
            await at(live, session)
        assert (await report(live))["left_places"]["expired"] == 2


async def test_calls_that_may_not_wait_are_told_when_to_come_back(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1, max_waiting=1, max_wait=0.05)
        live = await gateway_for("sessions", admission, "metrics", workers=workers)
        await at(live, "one")
        late = await turn(live, "two")
        assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")
        assert late.headers["retry-after"] == "1"
        assert (await report(live))["counts"]["refused_late"] == 1
        shown = (await live.client.get("/metrics")).text
        assert 'gateway_admission_hot_sessions{worker="gpu-0"} 1.0' in shown
        assert 'gateway_admission_refused_total{reason="late"} 1.0' in shown


async def test_full_line_rejects_all_but_patient_calls(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1, max_waiting=0, status=429)
        live = await gateway_for(Names, "sessions", admission, workers=workers)
        await at(live, "one")
        full = await turn(live, "two")
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert int(full.headers["retry-after"]) > 0
        waiting = asyncio.create_task(at(live, "two", x_scopes="realtime evaluator"))
        await until_waiting(live, 1)
        await at(live, "one", **FINAL)
        assert await waiting == "gpu-0"


async def test_caller_that_leaves_gives_its_turn_to_the_next(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1)
        live = await gateway_for("sessions", admission, workers=workers)
        await at(live, "one")
        left = asyncio.create_task(turn(live, "two"))
        await until_waiting(live, 1)
        stays = asyncio.create_task(at(live, "three"))
        await until_waiting(live, 2)
        left.cancel()
        await until_waiting(live, 1)
        await at(live, "one", **FINAL)
        assert await stays == "gpu-0"
        assert (await report(live))["counts"]["left"] == 1


async def test_same_session_of_two_principals_is_two_sessions(gateway_for: GatewayFor) -> None:
    async with fleet_of(2) as workers:
        admission = entry("session_admission", max_hot_per_worker=1)
        live = await gateway_for(Names, "sessions", admission, workers=workers)
        found = {await at(live, "one", x_principal=name) for name in ("a", "b")}
        assert found == {"gpu-0", "gpu-1"}


async def test_session_moves_from_a_worker_that_drains(gateway_for: GatewayFor) -> None:
    async with fleet_of(2) as workers:
        admission = entry("session_admission", max_hot_per_worker=1)
        live = await gateway_for("sessions", admission, workers=workers)
        home = live.gateway.workers.find(await at(live, "one"))
        assert home is not None
        home.mark("drain", "draining", "by the test")
        other = await at(live, "one")
        assert other != home.id
        home.clear("drain")
        assert await at(live, "one") == other, "its cache is there now"
        assert await hot(live) == {home.id: 0, other: 1}


async def test_rejected_call_takes_no_place(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1)
        nobody = entry("backpressure", max_in_flight_per_worker=1, queue={"max_length": 0})
        live = await gateway_for("sessions", admission, nobody, workers=workers)
        [worker] = live.gateway.workers.all
        assert worker.begin()
        assert (await turn(live, "one")).status_code == 429
        worker.end()
        assert await hot(live) == {"gpu-0": 0}
        assert await at(live, "two") == "gpu-0"


async def test_reload_changes_the_number_of_places(gateway_for: GatewayFor) -> None:
    async with fleet_of(1) as workers:
        admission = entry("session_admission", max_hot_per_worker=1)
        live = await gateway_for("sessions", admission, workers=workers)
        await at(live, "one")
        waiting = asyncio.create_task(at(live, "two"))
        await until_waiting(live, 1)
        live.plugin(SessionAdmission).reconfigure(Options(max_hot_per_worker=2))
        assert await waiting == "gpu-0"
        assert await hot(live) == {"gpu-0": 2}


async def test_session_admission_comes_before_backpressure(gateway_for: GatewayFor) -> None:
    with pytest.raises(ConfigError, match="backpressure must come after session_admission"):
        await gateway_for("backpressure", "session_admission")
