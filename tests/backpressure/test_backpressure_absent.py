"""Calls while no worker is there: held from the first refused connection on, and told the truth."""

import asyncio

import httpx
import pytest
from support.plugins.recording_plugin import until
from support.workers.holding_worker import fleet
from support.workers.restarting_worker import restarting

from gateway import config
from gateway.config import Probes
from gateway.testing import MESSAGES, GatewayFor, Live, ScriptedWorker, answer_of, entry

PROBES = Probes(interval=0.05, models_interval=None)
SELDOM = Probes(interval=600, models_interval=None)
BODY = {"messages": [dict(one) for one in MESSAGES]}
ONE = config.Worker(url="http://one", worker_id="one")


async def chat(live: Live) -> httpx.Response:
    return await live.client.post("/v1/chat/completions", json=BODY)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def waiting(live: Live) -> int:
    length: int = (await live.client.get("/admin/queue")).json()["length"]
    return length


async def begin(live: Live, count: int) -> list[asyncio.Task[httpx.Response]]:
    """Send calls and wait until all of them wait."""
    made = [asyncio.create_task(chat(live)) for _ in range(count)]
    async with asyncio.timeout(20):
        while await waiting(live) < count:  # noqa: ASYNC110  the queue has no event for it
            await asyncio.sleep(0.005)
    return made


async def test_calls_are_held_from_the_first_refused_connection_on(gateway_for: GatewayFor) -> None:
    async with restarting() as worker:
        live = await gateway_for("backpressure", workers=[worker.url], probes=PROBES)
        assert (await chat(live)).status_code == 200
        worker.kill()
        made = await begin(live, 20)
        assert not any(call.done() for call in made)
        await worker.start()
        answers = await asyncio.gather(*made)
        assert [answer.status_code for answer in answers] == [200] * 20
        assert worker.calls == 21, "each ran once"


async def test_calls_are_held_before_the_first_start_of_a_worker(gateway_for: GatewayFor) -> None:
    async with restarting() as worker:
        worker.kill()
        live = await gateway_for("backpressure", workers=[worker.url], probes=SELDOM)
        [call] = await begin(live, 1)
        await worker.start()
        answer = await call
        assert answer.status_code == 200
        assert "=upstream_connect_failed" in answer.headers["x-gateway-attempts"]


async def test_call_goes_to_another_worker_before_it_waits(gateway_for: GatewayFor) -> None:
    async with restarting() as gone, ScriptedWorker(answer_of(b"{}")) as other:
        gone.kill()
        live = await gateway_for("backpressure", workers=[gone.url, other.url], probes=SELDOM)
        assert [(await chat(live)).status_code for _ in range(4)] == [200] * 4
        assert (await live.client.get("/admin/queue")).json()["counts"]["waited"] == 0


@pytest.mark.parametrize(
    ("queue", "expected"),
    [({"max_wait": 0.05}, (503, "no_worker")), ({"max_length": 0}, (503, "queue_full"))],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_waiting_in_vain_without_a_worker_is_a_503(
    gateway_for: GatewayFor, queue: dict[str, float], expected: tuple[int, str], status: int
) -> None:
    async with restarting() as worker:
        worker.kill()
        queueing = entry("backpressure", queue=queue, status=status)
        live = await gateway_for(queueing, workers=[worker.url], probes=SELDOM)
        answer = await chat(live)
        assert code_of(answer) == expected
        assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_held_call_waits_no_longer_though_its_worker_flaps(gateway_for: GatewayFor) -> None:
    """A worker whose probes go well and that is gone again before the call comes."""
    async with restarting() as worker:
        worker.kill()
        queueing = entry("backpressure", queue={"max_wait": 0.4})
        live = await gateway_for(queueing, workers=[worker.url], probes=SELDOM)
        [held] = live.gateway.workers.all
        call = asyncio.create_task(chat(live))
        while not call.done():
            await until(lambda: call.done() or not held.fit)
            held.clear("probe")
            await asyncio.sleep(0.01)
        assert code_of(await call) == (503, "no_worker")


async def test_call_is_refused_at_once_if_calls_may_not_wait(gateway_for: GatewayFor) -> None:
    async with restarting() as worker:
        worker.kill()
        queueing = entry("backpressure", no_worker="refuse")
        live = await gateway_for(queueing, workers=[worker.url], probes=SELDOM)
        assert code_of(await chat(live)) == (502, "upstream_connect_failed")
        assert code_of(await chat(live)) == (503, "no_worker")


async def test_caller_that_leaves_frees_the_place_of_its_held_call(gateway_for: GatewayFor) -> None:
    async with restarting() as worker:
        worker.kill()
        live = await gateway_for("backpressure", workers=[worker.url], probes=SELDOM)
        [call] = await begin(live, 1)
        call.cancel()
        await until(lambda: not live.gateway.calls_in_flight)
        assert await waiting(live) == 0


async def test_waiting_in_vain_for_room_keeps_its_status() -> None:
    async with fleet(ONE, max_in_flight_per_worker=1, queue={"max_wait": 0.02}) as calls:
        calls.call()
        late = calls.call()
        await calls.running[late]
        assert late.caller.status == 429
        [one] = calls.gateway.workers.all
        one.mark("test", "down", "as the test wants it")
        absent = calls.call()
        await calls.running[absent]
        assert absent.caller.status == 503
