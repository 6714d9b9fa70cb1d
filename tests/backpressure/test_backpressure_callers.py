"""The queue as callers and operators meet it, over real sockets."""

import asyncio
import json
from collections.abc import Mapping

import httpx
import pytest
from support.callers.leaving_caller import leave
from support.callers.raw_client import RawClient, head_of
from support.plugins.recording_plugin import until

from gateway import ConfigError
from gateway.testing import (
    MESSAGES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
)

BODY = json.dumps({"messages": [dict(one) for one in MESSAGES]}).encode()
LINES = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
CALL = head_of("POST", "/v1/chat/completions", LINES) + BODY


class Holding:
    """A worker that answers each call once it is let go, in the order of their coming."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = asyncio.Semaphore(0)

    async def script(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            self.calls += 1
            await self.go.acquire()
            await connection.write(answer_of(b"{}"))


async def queue_of(live: Live) -> Mapping[str, object]:
    answer = await live.client.get("/admin/queue")
    assert answer.status_code == 200
    found: Mapping[str, object] = answer.json()
    return found


def client_of(live: Live) -> RawClient:
    return RawClient(*live.server.address)


async def begin(live: Live, client: RawClient) -> None:
    """Send a call, and wait until the gateway has it."""
    before = live.gateway.proxy.calls
    await client.send(CALL)
    await until(lambda: live.gateway.proxy.calls > before)


@pytest.mark.parametrize("reset", [False, True])
async def test_caller_disconnect_removes_its_call_from_the_queue(
    gateway_for: GatewayFor, reset: bool
) -> None:
    holding = Holding()
    async with ScriptedWorker(holding.script) as worker:
        queue = entry("backpressure", max_in_flight_per_worker=1)
        live = await gateway_for(queue, workers=[worker.url])
        workers = live.gateway.workers
        async with client_of(live) as first, client_of(live) as second, client_of(live) as third:
            await begin(live, first)
            await begin(live, second)
            await begin(live, third)
            leave(second, reset=reset)
            await until(lambda: len(live.gateway.proxy.in_flight) == 2)
            assert (await queue_of(live))["length"] == 1
            leave(first, reset=reset)
            await until(lambda: holding.calls == 2)
            holding.go.release()
            holding.go.release()
            assert (await third.answer("POST")).status == 200
        await until(lambda: not live.gateway.proxy.in_flight)
        assert workers.slots.used == workers.all[0].slots.used == 0


async def test_queued_call_fails_with_draining_at_shutdown(gateway_for: GatewayFor) -> None:
    holding = Holding()
    async with ScriptedWorker(holding.script) as worker:
        queue = entry("backpressure", max_in_flight_per_worker=1)
        live = await gateway_for(queue, workers=[worker.url])
        async with client_of(live) as first, client_of(live) as second:
            await begin(live, first)
            await begin(live, second)
            await live.gateway.drain(0)
            answer = await second.answer("POST")
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "draining")
        assert live.gateway.workers.slots.used == 0


async def test_queue_serves_many_concurrent_callers(gateway_for: GatewayFor) -> None:
    live = await gateway_for(entry("backpressure", max_in_flight_per_worker=2))
    body = json.loads(BODY)
    answers = await asyncio.gather(
        *(live.client.post("/v1/chat/completions", json=body) for _ in range(12))
    )
    assert {answer.status_code for answer in answers} == {200}
    found = await queue_of(live)
    assert (found["length"], found["in_flight"], found["promised"]) == (0, 0, 0)


async def test_admin_queue_shows_the_state_of_the_queue(gateway_for: GatewayFor) -> None:
    holding = Holding()
    async with ScriptedWorker(holding.script) as worker:
        queue = entry(
            "backpressure", max_in_flight_per_worker=1, max_in_flight=5, queue={"max_length": 1}
        )
        live = await gateway_for(queue, workers=[worker.url])
        async with client_of(live) as first, client_of(live) as second:
            await begin(live, first)
            await begin(live, second)
            refused = await live.client.post("/v1/chat/completions", content=BODY)
            found = dict(await queue_of(live))
            assert 0 < float(str(found.pop("oldest_wait"))) < 30
            assert found == {
                "length": 1,
                "max_length": 1,
                "drain_rate": 0.0,
                "in_flight": 1,
                "promised": 0,
                "max_in_flight": 5,
                "max_in_flight_by_worker": {worker.url.removeprefix("http://"): 1},
                "by_priority": {"0": 1},
                "by_principal": {"": 1},
                "counts": {
                    "waited": 1,
                    "waited_seconds": 0.0,
                    "refused_full": 1,
                    "refused_late": 0,
                    "left": 0,
                },
            }
            assert _said(refused) == (429, "queue_full", "30")


def _said(answer: httpx.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"status": 500}, "status"),
        ({"queue": {"max_length": -1}}, "queue.max_length"),
        ({"queue": {"patience": 1}}, "patience"),
        ({"no_worker": "hope"}, "no_worker"),
        ({"priority_header": " "}, "priority_header"),
    ],
)
async def test_backpressure_rejects_an_invalid_option_by_name(
    gateway_for: GatewayFor, options: Mapping[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        await gateway_for(entry("backpressure", **options))
