"""No generation meets half of an update, and none meets another version than the required one."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest
from support.plugins.recording_plugin import until
from support.workers.trl_worker import Fleet, TrlWorker

from gateway import Call, Principal, Worker, hookimpl
from gateway.testing import Live, entry

GENERATION = {"prompts": ["x"]}


class Slow:
    """After the gate, and before the worker: calls stay there while `waits` is set."""

    def __init__(self) -> None:
        self.waits = False
        self.waiting = 0
        self.go_on = asyncio.Event()

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        if self.waits:
            self.waiting += 1
            await self.go_on.wait()
        return workers


class Keys:
    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name = call.header("authorization")
        return Principal(name, frozenset({name, "realtime"})) if name else None


async def begun(live: Live) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(live.client.post("/generate/", json=GENERATION))


async def post(live: Live, path: str, **body: object) -> int:
    return (await live.client.post(path, json=body)).status_code


async def held(live: Live) -> int:
    number: int = (await live.client.get("/admin/trl")).json()["held"]
    return number


async def until_held(live: Live, count: int) -> None:
    async with asyncio.timeout(20):
        while await held(live) != count:
            pass


def stopping(worker: TrlWorker, at: str) -> asyncio.Event:
    """The worker answers nothing at this path until the event is set."""
    go_on = asyncio.Event()

    async def before() -> None:
        if worker.requests[-1].target.startswith(at):
            await go_on.wait()

    worker.before = before
    return go_on


async def test_calls_wait_from_the_start_of_an_update_to_its_finish(fleet: Fleet) -> None:
    workers = await fleet.start(2)
    live = await fleet.gateway(entry("trl"))
    assert await post(live, "/start_weight_update") == 200
    calls = [await begun(live) for _ in range(4)]
    await until_held(live, 4)
    assert await post(live, "/update_weights", update_info={}) == 200
    assert not any(worker.told("/generate/") for worker in workers)
    assert await post(live, "/finish_weight_update") == 200
    assert [(await call).status_code for call in calls] == [200] * 4
    assert not any(worker.died for worker in workers)


async def test_update_waits_for_running_calls(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    go_on = stopping(worker, "/generate/")
    live = await fleet.gateway(entry("trl"))
    call = await begun(live)
    await until(lambda: worker.told("/generate/") == 1)
    update = asyncio.create_task(post(live, "/start_weight_update"))
    await until(lambda: bool(live.gateway.workers.all[0].barred))
    later = await begun(live)
    await until_held(live, 1)
    assert not worker.told("/start_weight_update")
    go_on.set()
    assert ((await call).status_code, await update) == (200, 200)
    assert await post(live, "/finish_weight_update") == 200
    assert (await later).status_code == 200
    assert not worker.died


async def test_update_fails_and_releases_calls_if_workers_do_not_drain(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    go_on = stopping(worker, "/generate/")
    live = await fleet.gateway(entry("trl", drain_timeout=0.05))
    call = await begun(live)
    await until(lambda: worker.told("/generate/") == 1)
    answer = await live.client.post("/start_weight_update", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "calls_in_flight")
    assert not worker.told("/start_weight_update")
    go_on.set()
    assert [(await one).status_code for one in (call, await begun(live))] == [200, 200]


async def test_update_does_not_wait_for_calls_frozen_by_a_pause(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    go_on = stopping(worker, "/generate/")
    live = await fleet.gateway(entry("trl", drain_timeout=20.0))
    frozen = await begun(live)
    await until(lambda: worker.told("/generate/") == 1)
    assert await post(live, "/pause?mode=keep") == 200
    waiting = await begun(live)
    for path in ("/start_weight_update", "/update_weights", "/finish_weight_update"):
        assert await post(live, path) == 200
    await until_held(live, 1)  # it is paused still
    assert await post(live, "/resume") == 200
    go_on.set()
    assert [(await one).status_code for one in (frozen, waiting)] == [200, 200]


async def test_call_past_the_gate_waits_for_a_started_update(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    live = await fleet.gateway(entry("trl"), entry(Slow))
    slow = live.plugin(Slow)
    slow.waits = True
    call = await begun(live)
    await until(lambda: slow.waiting == 1)
    assert await post(live, "/start_weight_update") == 200
    slow.waits = False
    slow.go_on.set()
    await until_held(live, 1)
    assert await post(live, "/finish_weight_update") == 200
    assert (await call).status_code == 200
    assert not worker.died


async def test_update_that_no_worker_starts_holds_no_call(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    worker.failing["/start_weight_update"] = 500
    live = await fleet.gateway(entry("trl"))
    assert await post(live, "/start_weight_update") == 503
    assert (await (await begun(live))).status_code == 200


async def test_worker_that_fails_to_finish_an_update_holds_up_no_other(fleet: Fleet) -> None:
    good, bad = await fleet.start(2)
    bad.failing["/finish_weight_update"] = 500
    live = await fleet.gateway(entry("trl"))
    for path in ("/start_weight_update", "/update_weights", "/finish_weight_update"):
        assert await post(live, path) == 200
    for _ in range(4):
        assert (await (await begun(live))).status_code == 200
    assert (good.told("/generate/"), bad.told("/generate/")) == (4, 0)


async def test_call_that_waits_too_long_for_an_update_gets_503(fleet: Fleet) -> None:
    await fleet.start(1)
    live = await fleet.gateway(entry("trl", max_wait=0.05))
    await post(live, "/start_weight_update")
    answer = await (await begun(live))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "weights_updating")
    assert answer.headers["retry-after"]


async def test_broadcast_requires_the_admin_scope(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    live = await fleet.gateway(entry(Keys), entry("trl"))
    told = [
        (await live.client.post("/pause", headers={"authorization": name})).status_code
        for name in ("", "agent", "admin")
    ]
    assert told == [401, 403, 200]
    assert worker.told("/pause") == 1


def versions(worker: TrlWorker, path: str, body: bytes) -> None:
    worker.failing = {} if path == "/weight_info" else {"/weight_info": 404}
    worker.says(path, body)


@pytest.mark.parametrize(
    ("path", "body", "fit"),
    [
        ("/weight_info", b'{"weight_version":"7"}', True),
        ("/health/", b'{"status":"ok","model_version":"7"}', True),
        ("/health/", b'{"status":"ok","version":7}', True),
        ("/weight_info", b'{"weight_version":"6"}', False),
        ("/health/", b'{"status":"ok"}', False),
        ("/health/", b"ok", False),
        ("/health/", b'{"version":"%b"}' % (b"x" * 300), False),
        ("/health/", b"[" * 100_000, False),
    ],
)
async def test_workers_get_calls_only_with_the_required_version(
    fleet: Fleet, path: str, body: bytes, fit: bool
) -> None:
    [worker] = await fleet.start(1)
    versions(worker, path, body)
    live = await fleet.gateway(entry("trl", required_version="7", version_interval=0.01))
    await until(lambda: worker.told("/weight_info") > 1)
    answer = await (await begun(live))
    assert answer.status_code == (200 if fit else 503)
    if not fit:
        assert answer.json()["error"]["code"] == "wrong_version"
        assert "version 7" in answer.json()["error"]["message"]


async def test_worker_of_unknown_version_gets_calls_only_if_configured(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    silent, other = await fleet.start(2)
    versions(silent, "/health/", b'{"status":"ok"}')
    versions(other, "/weight_info", b'{"weight_version":"6"}')
    options = {"required_version": "7", "unknown_version": "allow", "version_interval": 0.01}
    live = await fleet.gateway(entry("trl", **options))
    await until(lambda: other.told("/weight_info") > 1 and silent.told("/health/") > 1)
    for _ in range(4):
        assert (await (await begun(live))).status_code == 200
    assert (silent.told("/generate/"), other.told("/generate/")) == (4, 0)
    said = [record.message for record in caplog.records if record.name == "gateway.trl"]
    assert sum("does not say its version; required is 7, let through" in one for one in said) == 2
    assert sum("has version 6; required is 7" in one for one in said) == 1


async def test_worker_becomes_fit_when_it_reports_the_required_version(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    versions(worker, "/weight_info", b'{"weight_version":"6"}')
    live = await fleet.gateway(entry("trl", required_version="7", version_interval=0.01))

    registry = live.gateway.workers
    await until(lambda: worker.told("/weight_info") > 1)
    assert not registry.serving().fit
    versions(worker, "/weight_info", b'{"weight_version":"7"}')
    await until(lambda: bool(registry.serving().fit))
    assert registry.all[0].weight_version == "7"


async def test_version_update_makes_a_worker_fit_at_once(fleet: Fleet) -> None:
    [worker] = await fleet.start(1)
    worker.failing["/weight_info"] = None
    live = await fleet.gateway(entry("trl", required_version="7"))
    assert (await (await begun(live))).status_code == 503
    await post(live, "/update_weight_version", new_version="7")
    assert (await (await begun(live))).status_code == 200


async def test_added_worker_is_unfit_until_its_version_is_known(fleet: Fleet) -> None:
    first, late = await fleet.start(2)
    for worker in (first, late):
        versions(worker, "/weight_info", b'{"weight_version":"7"}')
    live = await fleet.gateway(entry("trl", required_version="7", version_interval=0.01))
    registry = live.gateway.workers
    settings = registry.all[1].settings
    registry.remove(registry.all[1].id)
    await until(lambda: bool(registry.serving().fit))
    late.failing["/weight_info"] = None
    added = registry.add(settings)
    assert not added.fit
