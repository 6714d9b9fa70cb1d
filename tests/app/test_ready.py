"""Whether anybody is behind the gateway, as load balancers and load tools ask for it."""

import pytest
from support.plugins.recording_plugin import until
from support.workers.restarting_worker import restarting

from gateway import Principal, hookimpl
from gateway.config import Probes, Worker
from gateway.testing import NO_PROBES, GatewayFor, Live, ScriptedConnection, ScriptedWorker

OFTEN = Probes(interval=0.01, models_interval=None)


async def ready(live: Live) -> tuple[int, str]:
    answer = await live.client.get("/ready")
    assert len(answer.content) < 100
    return answer.status_code, answer.json()["status"]


async def test_ready_follows_the_workers(gateway_for: GatewayFor) -> None:
    async with restarting() as worker:
        live = await gateway_for(workers=[worker.url], probes=OFTEN)
        assert await ready(live) == (200, "ready")
        assert (await live.client.head("/ready")).status_code == 200
        worker.kill()
        await until(lambda: not live.gateway.workers.all[0].fit)
        assert await ready(live) == (503, "no_worker")
        assert int((await live.client.get("/ready")).headers["retry-after"]) >= 1
        await worker.start()
        await until(lambda: live.gateway.workers.all[0].fit)
        assert await ready(live) == (200, "ready")


async def test_health_says_that_no_worker_is_fit_and_stays_200(gateway_for: GatewayFor) -> None:
    worker = Worker(url="http://127.0.0.1:1", worker_id="one")
    live = await gateway_for(workers=[worker], probes=NO_PROBES)
    assert (await live.client.get("/health")).json() == {"status": "ok"}
    await live.client.post("/admin/workers/one/drain")
    answer = await live.client.get("/health")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "no_worker", "reason": "workers: none can take calls now", "ready": False},
    )


async def test_gateway_without_workers_yet_is_ok_and_not_ready(gateway_for: GatewayFor) -> None:
    live = await gateway_for(workers=[])
    assert (await live.client.get("/health")).json() == {"status": "ok", "ready": False}
    assert await ready(live) == (503, "no_worker")


async def test_draining_gateway_is_not_ready(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(b"") as worker:
        live = await gateway_for(workers=[worker.url])
        await live.gateway.drain(0)
        assert await ready(live) == (503, "draining")


async def test_gateway_is_probed_by_another_one_at_ready(gateway_for: GatewayFor) -> None:
    async with restarting() as engine:
        behind = await gateway_for(workers=[engine.url], probes=OFTEN)
        settings = Worker(url=behind.url, probe="gateway")
        front = await gateway_for(workers=[settings], probes=OFTEN)
        assert await ready(front) == (200, "ready")
        engine.kill()
        await until(lambda: not front.gateway.workers.all[0].fit)
        assert await ready(front) == (503, "no_worker")


@pytest.mark.parametrize("probe", ["vllm-router", {"path": "/readiness", "statuses": [200]}])
async def test_router_with_nobody_behind_it_is_down(gateway_for: GatewayFor, probe: object) -> None:
    """As smg and vllm-router respond once their engine is gone."""

    async def router(connection: ScriptedConnection) -> None:
        request = await connection.read_request()
        status = b"503 Busy" if b" /readiness " in request else b"200 OK"
        await connection.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status)

    async with ScriptedWorker(router) as worker:
        live = await gateway_for(workers=[], probes=OFTEN)
        added = {"url": worker.url, "worker_id": "router", "probe": probe}
        assert (await live.client.post("/admin/workers", json=added)).status_code == 200
        [found] = live.gateway.workers.all
        await until(lambda: not found.fit)
        assert found.conditions["probe"].reason.startswith("GET /readiness: the answer's status")
        patched = await live.client.patch("/admin/workers/router", json={"probe": True})
        assert patched.status_code == 200
        await until(lambda: found.fit)
        wrong = await live.client.patch("/admin/workers/router", json={"probe": {"path": "x"}})
        assert wrong.status_code == 400


class Keys:
    """Another plugin, which lets nobody in."""

    @hookimpl
    async def authenticate(self) -> Principal | None:
        return None


async def test_ready_needs_no_key(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Keys, workers=["http://127.0.0.1:1"])
    assert (await live.client.get("/health/workers")).status_code == 401
    assert await ready(live) == (200, "ready")
