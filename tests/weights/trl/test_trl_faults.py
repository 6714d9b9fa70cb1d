"""The faults of the gateway that this one replaces (its contract has their list), each not here.

All with the configuration that is shipped for it.
"""

import asyncio
import socket

import httpx
from msgspec.structs import replace
from support.callers.raw_client import RawClient, head_of
from support.plugins.recording_plugin import until
from support.workers.trl_worker import Fleet, TrlWorker, shipped

from gateway.config import Probes
from gateway.testing import Live


async def generated(live: Live, prompt: str = "x", session: str = "") -> httpx.Response:
    headers = {"x-session-id": session} if session else {}
    return await live.client.post("/generate/", json={"prompts": [prompt]}, headers=headers)


def state_of(live: Live, place: int) -> str:
    return live.gateway.workers.all[place].info().state


def holding(*workers: TrlWorker) -> asyncio.Event:
    """Generations of these workers go on only when the event is set."""
    go_on = asyncio.Event()
    for worker in workers:
        worker.before = go_on.wait
    return go_on


async def eject(live: Live, place: int) -> None:
    """Let a worker that fails have calls until it is ejected."""
    for number in range(100):
        if state_of(live, place) == "ejected":
            return
        await generated(live, f"prompt {number}")
    raise AssertionError("it has not been ejected")


async def test_fault_1_bad_requests_eject_no_worker(fleet: Fleet) -> None:
    workers = await fleet.start(2)
    for worker in workers:
        worker.failing["/generate/"] = 422
    live = await fleet.gateway()
    assert {(await generated(live)).status_code for _ in range(8)} == {422}
    assert [state_of(live, place) for place in (0, 1)] == ["up", "up"]


async def test_fault_2_one_failed_probe_marks_no_worker_down(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    worker.failing["/health"] = 500

    async def only_once() -> None:
        worker.failing.clear()

    worker.before = only_once
    live = await fleet.gateway(probes=Probes(interval=0.01, models_interval=None))
    seen = set()
    live.gateway.workers.changed.append(lambda: seen.add(state_of(live, 0)))
    await until(lambda: worker.told("/health") > 3)
    assert "down" not in seen
    assert state_of(live, 0) == "up"


async def test_fault_2_breaker_sends_one_trial_call_at_a_time_after_cooldown(fleet: Fleet) -> None:
    good, bad = await fleet.start(2)
    bad.failing["/generate/"] = 500
    live = await fleet.gateway(COOLDOWN_SECONDS="0.05")
    await eject(live, 1)
    await until(lambda: state_of(live, 1) == "half_open")
    bad.failing.clear()
    go_on = holding(bad)
    before = bad.told("/generate/")
    calls = [asyncio.create_task(generated(live, f"trial {number}")) for number in range(12)]
    await until(lambda: sum(call.done() for call in calls) == 11)
    assert bad.told("/generate/") - before == 1
    go_on.set()
    assert {(await call).status_code for call in calls} == {200}
    for number in range(20):
        await generated(live, f"later {number}")
    assert state_of(live, 1) == "up"
    assert good.told("/generate/") > 11


async def test_fault_3_failover_replaces_an_unreachable_worker(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
        live = await fleet.gateway(BACKENDS=f"{url},{worker.url}")
        answers = [await generated(live, f"prompt {number}") for number in range(8)]
        assert {(one.status_code, one.headers["x-backend"]) for one in answers} == {
            (200, worker.url)
        }
        assert any("x-gateway-attempts" in one.headers for one in answers)


async def test_fault_3_failover_does_not_repeat_a_generation_that_may_have_run(
    fleet: Fleet,
) -> None:
    workers = await fleet.start(2)

    async def dies() -> None:
        for worker in workers:
            for connection in worker.server.connections:
                connection.abort()

    for worker in workers:
        worker.before = dies
    live = await fleet.gateway()
    assert (await generated(live)).status_code == 502
    assert sum(worker.told("/generate/") for worker in workers) == 1


async def test_fault_4_calls_are_rejected_if_no_worker_reports_the_version(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    live = await fleet.gateway(REQUIRED_MODEL_VERSION="2025-10-23a", HEALTH_INTERVAL="0.01")
    await until(lambda: worker.told("/health/") > 1)
    answer = await generated(live)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "wrong_version")
    assert "2025-10-23a" in answer.json()["error"]["message"]
    assert not worker.told("/generate/")
    assert (await live.client.get("/health")).status_code == 503


async def test_fault_5_session_moves_once_and_returns_to_its_worker(fleet: Fleet) -> None:
    await fleet.start(4)
    live = await fleet.gateway()
    home = (await generated(live, session="s")).headers["x-backend"]
    [worker] = [one for one in live.gateway.workers.all if one.url == home]
    worker.mark("test", "down", "as told")
    away = {(await generated(live, f"{n}", "s")).headers["x-backend"] for n in range(8)}
    assert len(away) == 1
    assert home not in away
    worker.clear("test")
    assert (await generated(live, session="s")).headers["x-backend"] == home


async def test_fault_5_sessions_spill_and_wait_instead_of_being_rejected(fleet: Fleet) -> None:
    workers = await fleet.start(3)
    go_on = holding(*workers)
    live = await fleet.gateway(MAX_INFLIGHT_PER_BACKEND="1")
    calls = [asyncio.create_task(generated(live, session="one and the same")) for _ in range(4)]
    await until(lambda: sum(worker.told("/generate/") for worker in workers) == 3)
    assert [worker.told("/generate/") for worker in workers] == [1, 1, 1]
    go_on.set()
    assert {(await call).status_code for call in calls} == {200}  # the fourth has waited


async def test_fault_6_broadcast_runs_concurrently_and_reports_each_failure(
    fleet: Fleet,
) -> None:
    good, ejected, failing = workers = await fleet.start(3)
    ejected.failing["/generate/"] = 500
    failing.failing["/update_named_param/"] = 500
    live = await fleet.gateway(FAIL_EJECT_THRESHOLD="1")
    await eject(live, 1)
    together = asyncio.Event()

    async def both() -> None:
        if good.told("/update_named_param/") and failing.told("/update_named_param/"):
            together.set()
        await together.wait()

    for worker in workers:
        worker.before = both
    answer = await live.client.post("/update_named_param/", json={"name": "w"})
    assert answer.status_code == 200  # all that TRL's client takes for success
    assert answer.headers["x-gateway-broadcast"].startswith(f"ok={good.url[7:]}, failed=")
    assert not ejected.told("/update_named_param/")
    assert (await live.client.post("/reset_prefix_cache/")).status_code == 200
    fit = [worker.url for worker in live.gateway.workers.serving().fit]
    assert fit == [good.url]


async def test_fault_7_too_large_body_is_rejected_unread(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    live = await fleet.gateway(MAX_BODY_MB="1")
    async with RawClient(*live.server.address) as client:
        length = (b"content-length", b"%d" % (1 << 21))
        await client.send(head_of("POST", "/generate/", [length]))
        assert (await client.answer("POST")).status == 413
    assert not worker.requests


async def test_fault_7_worker_timeout_returns_504(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    worker.failing["/generate/"] = None
    live = await fleet.gateway(REQUEST_TIMEOUT="0.05")
    answer = await generated(live)
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        504,
        "upstream_first_byte_timeout",
    )


async def test_fault_7_health_of_an_unreachable_worker_returns_an_error_body(fleet: Fleet) -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
        plugins = [
            replace(one, options={"queue": {"max_wait": 0.2}}, written=None)
            if one.name == "backpressure"
            else one
            for one in shipped(BACKENDS=url).plugins
        ]
        live = await fleet.gateway(*plugins, BACKENDS=url)
        answer = await live.client.get("/health/")
        # The first probe may be before or after it.
        assert (answer.status_code, answer.json()["error"]["code"]) in (
            (502, "upstream_connect_failed"),
            (503, "no_worker"),
        )


async def test_fault_7_worker_connections_are_reused(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    live = await fleet.gateway()
    for _ in range(5):
        await live.client.get("/get_world_size/")
    assert len(worker.server.connections) == 1
