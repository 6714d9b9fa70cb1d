"""Workers that come and go while the gateway runs, and what its health says."""

import asyncio
from typing import Any

import httpx
import pytest
from support.plugins.hook_probes import Keys
from support.plugins.recording_plugin import until

from gateway import Call, Worker, config, hookimpl
from gateway.config import ServerLimits, Timeouts
from gateway.control import workers
from gateway.fleet import changes
from gateway.fleet.registry import Workers
from gateway.simulator import Simulator, SimulatorConfig
from gateway.testing import (
    MESSAGES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
)

CHAT = {"model": "sim", "messages": [dict(MESSAGES[0])], "max_tokens": 2}


async def add(live: Live, **fields: object) -> httpx.Response:
    return await live.client.post("/admin/workers", json=fields)


async def served_by(live: Live) -> str:
    answer = await live.client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200
    return answer.headers["x-gateway-worker"]


async def test_added_worker_receives_calls(gateway_for: GatewayFor) -> None:
    async with Simulator() as another:
        live = await gateway_for(workers=[])
        refused = await live.client.post("/v1/chat/completions", json=CHAT)
        assert refused.json()["error"]["code"] == "no_worker"
        added = await add(live, url=f"{another.url}/v1/", api_path="/v1", weight=1)
        authority = another.url.removeprefix("http://")
        expected = {"worker_id": authority, "url": another.url, "api_path": "/v1"}
        assert (added.status_code, added.json()) == (200, expected)
        assert await served_by(live) == authority


UP = {
    "healthy": True,
    "state": "up",
    "conditions": {},
    "active_requests": 0,
    "limit": None,
    "weight_version": None,
    "last_error": None,
    "last_error_at": None,
    "ttft": None,
    "duration": None,
    "refused_injections": [],
    "hints": [],
}


async def test_worker_list_has_the_format_trainers_expect(gateway_for: GatewayFor) -> None:
    live = await gateway_for(workers=[])
    await add(live, url="http://a:1/openai", worker_id="one", model_name="m", weight=2)
    await add(live, url="http://b:2", weight=0.5)
    expected = [
        {
            "worker_id": "one",
            "url": "http://a:1",
            "api_path": "/openai",
            "model_name": "m",
            "models": ["m"],
            "weight": 2,
            **UP,
        },
        {
            "worker_id": "b:2",
            "url": "http://b:2",
            "api_path": "/v1",
            "model_name": None,
            "models": None,
            "weight": 0.5,
            **UP,
        },
    ]
    listed = await live.client.get("/admin/workers")
    assert listed.json() == expected
    assert '"weight":2,' in listed.text, "rllm's model of it takes an integer alone"
    assert (await live.client.get("/admin/workers/one")).json() == expected[0]
    health = await live.client.get("/health/workers")
    assert health.json() == {"workers": expected, "healthy": 2, "total": 2}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": "ftp://h"}, "url"),
        ({"url": 7}, "url"),
        ({"url": "http://h/a", "api_path": "/b"}, "api_path"),
        ({"url": "http://h", "weight": 0}, "weight"),
        ({"url": "http://h", "weight": "x"}, "weight"),
        ({"url": "http://h", "worker_id": ""}, "worker_id"),
        ({"url": "http://h", "headers": {"host": "x"}}, "headers.host"),
        ({"url": "https://h", "tls": {"ca_file": "/etc/passwd"}}, "tls"),
        ({"url": "http://h", "wieght": 1}, "wieght"),
    ],
)
async def test_add_worker_rejects_an_invalid_field_by_name(
    gateway_for: GatewayFor, fields: dict[str, object], param: str
) -> None:
    live = await gateway_for(workers=[])
    refused = await add(live, **fields)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert param.partition(".")[0] in refused.json()["error"]["message"]
    assert (await live.client.get("/admin/workers")).json() == []


async def test_add_worker_errors_repeat_no_secrets(gateway_for: GatewayFor) -> None:
    live = await gateway_for(workers=[])
    for fields in (
        {"url": "http://user:hunter2@h/v1"},
        {"url": "http://h", "headers": {"authorization": "hunter2\n"}},
    ):
        refused = await add(live, **fields)
        assert refused.status_code == 400
        assert "hunter2" not in refused.text


FILES = {"tls"}
"""A file of this machine is its operator's to name, in the configuration."""


def test_add_worker_accepts_every_config_field_except_tls() -> None:
    known = set(config.Worker.__struct_fields__)
    assert set(workers.NewWorker.__struct_fields__) == known - FILES
    place = {"url", "api_path", "worker_id"}
    assert set(changes.Fields.__struct_fields__) == known - FILES - place


MINE = config.Worker(url="http://h:1", worker_id="mine", weight=2, headers={"x-k": "hunter2"})


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://h:1"},
        {"url": "http://h:1/v1/", "weight": 2, "model_name": None},
        {"url": "http://H:1", "api_path": "/v1", "headers": {"x-k": "hunter2"}},
        {"url": "http://h:1", "worker_id": "mine", "models": [], "inject": True},
    ],
)
async def test_add_worker_returns_the_worker_that_is_there_with_the_same_settings(
    gateway_for: GatewayFor, fields: dict[str, object]
) -> None:
    live = await gateway_for(workers=[MINE])
    before = (await live.client.get("/admin/workers")).json()
    again = await add(live, **fields)
    assert (again.status_code, again.json()["worker_id"]) == (200, "mine")
    assert (await live.client.get("/admin/workers")).json() == before


async def test_added_worker_may_be_added_again_as_the_client_of_rllm_does(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(workers=[])
    body = {"url": "http://h:1", "api_path": "/v1", "weight": 1}
    first, again = await add(live, **body), await add(live, **body)
    assert first.json() == again.json()
    assert again.status_code == 200
    assert len((await live.client.get("/admin/workers")).json()) == 1


async def test_added_worker_may_be_added_again_with_its_models_in_another_order(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(workers=[])
    assert (await add(live, url="http://h:1", models=["a", "b"])).status_code == 200
    assert (await add(live, url="http://h:1", models=["b", "a", "b"])).status_code == 200
    assert (await add(live, url="http://h:1", models=["b"])).status_code == 409


async def test_add_worker_rejects_other_settings_of_a_worker_that_is_there(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(workers=[MINE])
    unlike: list[tuple[dict[str, Any], str]] = [
        ({"url": "http://h:1", "weight": 1}, "weight"),
        ({"url": "http://h:1", "headers": {"x-k": "other"}}, "headers"),
        ({"url": "http://i:1", "worker_id": "mine"}, "url"),
        ({"url": "http://h:1", "api_path": "/v2", "worker_id": "mine"}, "api_path"),
    ]
    for fields, field in unlike:
        refused = await add(live, **fields)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (409, "worker_exists")
        assert field in error["message"]
        assert "hunter2" not in refused.text


async def test_add_worker_takes_a_second_one_at_a_url_under_an_id_of_its_own(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(workers=["http://h:1"])
    assert (await add(live, url="http://h:1", worker_id="h:1#2")).status_code == 200
    assert (await live.client.delete("/admin/workers/h:1%232")).json() == {"removed": "h:1#2"}


async def test_removed_worker_receives_no_more_calls(gateway_for: GatewayFor) -> None:
    async with Simulator() as kept, Simulator() as leaving:
        live = await gateway_for(workers=[kept.url, leaving.url])
        gone = leaving.url.removeprefix("http://")
        assert gone in {await served_by(live) for _ in range(4)}
        removed = await live.client.delete(f"/admin/workers/{gone}")
        assert removed.json() == {"removed": gone}
        assert gone not in {await served_by(live) for _ in range(4)}
        await until(lambda: leaving.stats.connections == 0)
        assert kept.stats.connections == 1
        again = await live.client.delete(f"/admin/workers/{gone}")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


async def test_removed_worker_finishes_its_calls_in_flight(gateway_for: GatewayFor) -> None:
    release = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await release.wait()
        await connection.write(answer_of(b'{"object": "late"}'))
        await connection.read_request()

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=[worker.url])
        running = [
            asyncio.create_task(live.client.post("/v1/chat/completions", json=CHAT))
            for _ in range(2)
        ]
        await until(lambda: len(worker.requests) == 2)
        authority = worker.url.removeprefix("http://")
        assert (await live.client.delete(f"/admin/workers/{authority}")).status_code == 200
        assert worker.connections_open == 2, "its calls have not ended"
        # One that comes back is another worker, whose connections are its own.
        assert (await add(live, url=worker.url)).status_code == 200
        release.set()
        for call in running:
            assert (await call).json() == {"object": "late"}
        await until(lambda: worker.connections_open == 0)


async def test_adding_and_removing_a_worker_disturbs_no_other(
    gateway_for: GatewayFor,
) -> None:
    async with Simulator() as first, Simulator(SimulatorConfig(itl=0.01)) as second:
        live = await gateway_for(workers=[first.url])
        kept = live.gateway.workers.all[0]
        await served_by(live)
        streaming = asyncio.create_task(
            live.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        )
        await add(live, url=second.url, worker_id="second")
        await live.client.delete("/admin/workers/second")
        assert (await streaming).text.endswith("data: [DONE]\n\n")
        assert live.gateway.workers.all == (kept,)
        await served_by(live)
        assert first.stats.accepted <= 2, "the kept connections are still there"


class Meanwhile:
    """Another worker is added while this one looks at those that are there."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.registry: Workers | None = None

    @hookimpl
    async def filter_workers(self, call: Call, workers: list[Worker]) -> list[Worker]:
        registry = self.registry
        assert registry is not None
        for worker in workers:
            registry.add(config.Worker(url="http://late:1"))
            registry.remove(worker.id)
            self.seen.append(worker.id)
        return workers


async def test_hook_keeps_its_worker_list_while_workers_change(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Meanwhile)
    live.plugin(Meanwhile).registry = live.gateway.workers
    await served_by(live)
    assert live.plugin(Meanwhile).seen == [simulator.url.removeprefix("http://")]
    assert [worker.id for worker in live.gateway.workers.all] == ["late:1"]
    await until(lambda: simulator.stats.connections == 0)


async def test_gateway_close_closes_removed_workers() -> None:
    settings = config.Config(timeouts=Timeouts(), server_limits=ServerLimits())
    workers = Workers(settings)

    async def script(connection: ScriptedConnection) -> None:
        await connection.closed.wait()

    async with ScriptedWorker(script) as worker:
        added = workers.add(config.Worker(url=worker.url))
        added.begin()
        await added.pool.open()
        workers.remove(added.id)
        assert len(added.pool) == 1, "its call may go on"
        workers.close()
        await until(lambda: len(added.pool) == 0)


async def test_admin_routes_reject_requests_without_a_key(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry(Keys, key="a"), workers=[])
    for method, path in [
        ("GET", "/admin/workers"),
        ("POST", "/admin/workers"),
        ("GET", "/admin/workers/x"),
        ("DELETE", "/admin/workers/x"),
        ("PATCH", "/admin/workers/x"),
        ("POST", "/admin/workers/x/drain"),
        ("POST", "/admin/workers/x/undrain"),
        ("PATCH", "/admin/workers"),
        ("GET", "/health/workers"),
    ]:
        refused = await live.client.request(method, path, json={"url": "http://h"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert live.gateway.workers.all == ()
    live.client.headers["authorization"] = "abc"
    assert (await add(live, url="http://h")).status_code == 200


async def test_admin_routes_reject_cross_site_requests(
    gateway_for: GatewayFor,
) -> None:
    live = await gateway_for(workers=[])
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"sec-fetch-site": site}
        answer = await live.client.get("/admin/workers", headers=headers)
        assert answer.status_code == status


async def test_health_reports_degraded_storage(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    assert (await live.client.get("/health")).json() == {"status": "ok"}
    health = live.gateway.storage.health
    health.state, health.reason = "degraded", "disk full"
    answer = await live.client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "reason": "storage: disk full"}
