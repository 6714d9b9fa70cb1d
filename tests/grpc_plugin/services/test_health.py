"""gRPC's health protocol: readiness of the services, and those who watch."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from gateway_plugins.grpc.messages import Messages
from gateway_plugins.grpc.services import health as module
from gateway_plugins.grpc.services.health import CHECK, WATCH, Health
from gateway_plugins.grpc.status import Code, Status
from support.grpc.in_process import KeptMessages

from gateway.testing import GatewayFor, Live

SERVICE = "llm.v1.LlmService"
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3

MESSAGES = Messages()
RESPONSE = MESSAGES.type("grpc.health.v1.HealthCheckResponse")


class Watching(KeptMessages):
    """A Context whose messages are awaited."""

    def __init__(self, service: str) -> None:
        super().__init__(WATCH, asked(service))
        self.told: asyncio.Queue[int] = asyncio.Queue()

    async def send(self, message: bytes) -> None:
        self.told.put_nowait(RESPONSE.FromString(message).status)

    async def next(self) -> int:
        async with asyncio.timeout(30):
            return await self.told.get()


def asked(service: str) -> object:
    return MESSAGES.type("grpc.health.v1.HealthCheckRequest")(service=service)


@contextlib.asynccontextmanager
async def health_of(live: Live) -> AsyncIterator[Health]:
    health = Health(live.gateway, MESSAGES, [SERVICE])
    yield health
    health.close()
    assert health.look not in live.gateway.workers.changed


async def check(health: Health, service: str) -> tuple[Code, list[int]]:
    context = KeptMessages(CHECK, asked(service))
    status, sent = await health.check(context)
    assert sent == len(context.sent)
    return status.code, [RESPONSE.FromString(data).status for data in context.sent]


async def lead(live: Live, verb: str) -> None:
    [worker] = live.gateway.workers.all
    answer = await live.client.post(f"/admin/workers/{worker.id}/{verb}")
    assert answer.status_code == 200


async def test_services_are_ready_as_long_as_a_worker_is_fit(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    async with health_of(live) as health:
        assert await check(health, SERVICE) == (Code.OK, [SERVING])
        await lead(live, "drain")
        assert (await live.client.get("/ready")).status_code == 503
        assert await check(health, SERVICE) == (Code.OK, [NOT_SERVING])
        assert await check(health, "") == (Code.OK, [SERVING])
        assert await check(health, "no.such.Service") == (Code.NOT_FOUND, [])


async def test_those_who_watch_are_told_each_change(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    async with health_of(live) as health:
        service, unknown, process = (Watching(name) for name in (SERVICE, "no.such.Service", ""))
        tasks = [asyncio.create_task(health.watch(one)) for one in (service, unknown, process)]
        assert (await service.next(), await unknown.next()) == (SERVING, UNKNOWN)
        await lead(live, "drain")
        assert await service.next() == NOT_SERVING
        await lead(live, "undrain")
        assert await service.next() == SERVING
        assert (unknown.told.empty(), await process.next()) == (True, SERVING)
        live.gateway.proxy.drains.set()
        health.look()
        assert (await service.next(), await process.next()) == (NOT_SERVING, NOT_SERVING)
        tasks[1].cancel()
    ended = await asyncio.gather(*tasks)
    codes = [status.code for status, _ in ended]
    assert codes == [Code.UNAVAILABLE, Code.CANCELLED, Code.UNAVAILABLE]


async def test_those_who_watch_are_counted(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WATCHERS", 1)
    live = await gateway_for()
    async with health_of(live) as health:
        first = Watching("")
        watching = asyncio.create_task(health.watch(first))
        await first.next()
        status, _ = await health.watch(Watching(""))
        assert status.code is Code.RESOURCE_EXHAUSTED
        watching.cancel()
        await asyncio.wait([watching])
        again = asyncio.create_task(health.watch(first))
        assert await first.next() == SERVING
        again.cancel()
        await asyncio.wait([again])


async def test_bad_requests_are_invalid_arguments(gateway_for: GatewayFor) -> None:
    live = await gateway_for()
    async with health_of(live) as health:
        for serve in (health.check, health.watch):
            context = KeptMessages(CHECK, asked(""))
            context.request = b"\xff"
            status: Status = (await serve(context))[0]
            assert status.code is Code.INVALID_ARGUMENT
