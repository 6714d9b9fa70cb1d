"""Which error statuses let a generation be repeated: those that show that nothing has run."""

from collections.abc import Mapping

import httpx
import pytest
from gateway_plugins.circuit_breaker import CircuitBreaker
from msgspec.structs import replace
from support.workers.failing_on_demand import breaker
from support.workers.failing_worker import (
    OK,
    QUEUE_FULL,
    QUICK,
    UNSAID,
    InOrder,
    assert_idle,
    closes,
    refusal,
    unreachable,
)

from gateway.config import Worker
from gateway.errors import ConnectFailed, NoWorker, UpstreamClosed
from gateway.testing import GatewayFor, Live, ScriptedWorker

CHAT = "/v1/chat/completions"
LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
OVERLOADED = b'{"error":"Model is overloaded","error_type":"overloaded"}'

TOLD: Mapping[str, tuple[int, bytes]] = {
    "SGLang": (503, QUEUE_FULL),
    "llama.cpp": (503, LOADING),
    "TGI": (429, OVERLOADED),
    "any limiter": (429, b"slow down"),
    "a gateway without a worker": (503, NoWorker("none").body()),
    "a gateway that reached none": (502, ConnectFailed("none").body()),
}
UNTOLD: Mapping[str, tuple[int, bytes]] = {
    "nginx": (502, UNSAID),
    "Caddy": (502, b""),
    "Envoy": (503, b"upstream connect error or disconnect/reset before headers"),
    "a proxy's time-out": (504, UNSAID),
    "a gateway whose worker broke off": (502, UpstreamClosed("broke off").body()),
}


def named(*urls: str) -> tuple[Worker, ...]:
    return tuple(Worker(url=url, worker_id=name) for url, name in zip(urls, "abcdef", strict=False))


async def generate(live: Live) -> httpx.Response:
    answer = await live.client.post(CHAT, json={"messages": []})
    assert_idle(live.gateway)
    return answer


@pytest.mark.parametrize("program", TOLD)
async def test_generation_is_repeated_after_a_refusal_in_known_words(
    gateway_for: GatewayFor, program: str
) -> None:
    status, body = TOLD[program]
    async with ScriptedWorker(refusal(status, body=body)) as one, ScriptedWorker(OK) as two:
        live = await gateway_for(InOrder, workers=named(one.url, two.url), failover=QUICK)
        answer = await generate(live)
    assert (answer.status_code, answer.headers["x-gateway-worker"]) == (200, "b")


@pytest.mark.parametrize("program", UNTOLD)
async def test_generation_is_not_repeated_after_a_status_alone(
    gateway_for: GatewayFor, program: str
) -> None:
    status, body = UNTOLD[program]
    first = refusal(status, "retry-after: 7", "x-own: yes", body=body)
    async with ScriptedWorker(first) as one, ScriptedWorker(OK) as two:
        workers = named(one.url, two.url)
        live = await gateway_for(InOrder, workers=workers, failover=QUICK)
        answer = await generate(live)
        assert (answer.status_code, answer.content) == (status, body)
        assert (answer.headers["x-gateway-worker"], answer.headers["x-own"]) == ("a", "yes")
        assert answer.headers["retry-after"] == "7"
        assert two.requests == []
        for path in ("/tokenize", "/v1/embeddings"):
            harmless = await live.client.post(path, json={})
            assert (harmless.status_code, harmless.headers["x-gateway-worker"]) == (200, "b")
        again = await gateway_for(InOrder, workers=workers, failover=replace(QUICK, rerun=True))
        assert (await generate(again)).status_code == 200


@pytest.mark.parametrize(("dies", "status"), [(True, 502), (False, 200)])
async def test_gateway_behind_a_gateway_tells_whether_a_worker_had_the_call(
    gateway_for: GatewayFor, dies: bool, status: int
) -> None:
    async with ScriptedWorker(closes) as broken, ScriptedWorker(OK) as well:
        with unreachable() as nowhere:
            first = await gateway_for(workers=[broken.url if dies else nowhere], failover=QUICK)
            second = await gateway_for(workers=[well.url], failover=QUICK)
            urls = named(first.url, second.url)
            live = await gateway_for(InOrder, workers=urls, failover=QUICK)
            assert (await generate(live)).status_code == status
    assert len(well.requests) == (not dies)


async def test_operator_may_say_that_a_worker_refuses_by_a_status(gateway_for: GatewayFor) -> None:
    """HAProxy's 503 means that no server took the call, its 502 that one died at it."""
    async with ScriptedWorker(OK) as two:
        for status, asked in ((503, 200), (502, 502)):
            async with ScriptedWorker(refusal(status, body=UNSAID)) as one:
                known = Worker(url=one.url, worker_id="a", refuses_with=(503,))
                other = Worker(url=two.url, worker_id="b")
                live = await gateway_for(InOrder, workers=(known, other), failover=QUICK)
                assert (await generate(live)).status_code == asked
    assert len(two.requests) == 1


async def test_status_of_refusal_may_be_changed_at_run_time(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(refusal(500, body=b"no")) as one, ScriptedWorker(OK) as two:
        live = await gateway_for(InOrder, workers=named(one.url, two.url), failover=QUICK)
        assert (await generate(live)).status_code == 500
        await live.client.patch("/admin/workers/a", json={"refuses_with": [500]})
        assert (await generate(live)).status_code == 200


# a worker that lets the gateway not in


@pytest.mark.parametrize("status", [401, 403])
async def test_call_goes_elsewhere_if_a_worker_does_not_take_the_gateway_s_key(
    gateway_for: GatewayFor, status: int
) -> None:
    said = refusal(status, body=b'{"error":"Unauthorized"}')
    async with ScriptedWorker(said) as one, ScriptedWorker(OK) as two:
        live = await gateway_for(InOrder, workers=named(one.url, two.url), failover=QUICK)
        answer = await generate(live)
        assert answer.status_code == 200
        assert answer.headers["x-gateway-attempts"] == f"a={status}, b=200"
        alone = await gateway_for(InOrder, workers=named(one.url, one.url), failover=QUICK)
        answer = await generate(alone)
    assert (answer.status_code, answer.json()) == (status, {"error": "Unauthorized"})


async def test_answer_to_the_caller_s_own_key_is_the_caller_s(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(refusal(401)) as one, ScriptedWorker(OK) as two:
        asked = Worker(url=one.url, worker_id="a", forward_authorization=True)
        other = Worker(url=two.url, worker_id="b", forward_authorization=True)
        live = await gateway_for(InOrder, workers=(asked, other), failover=QUICK)
        assert (await generate(live)).status_code == 401
    assert two.requests == []


async def test_breaker_ejects_a_worker_whose_key_is_wrong_by_proof_of_another(
    gateway_for: GatewayFor,
) -> None:
    async with ScriptedWorker(refusal(401)) as one, ScriptedWorker(OK) as two:
        live = await gateway_for(
            breaker(max_ejected_share=0.5), InOrder, workers=named(one.url, two.url), failover=QUICK
        )
        for _ in range(4):
            assert (await generate(live)).status_code == 200
        assert len(one.requests) == 2
        assert live.plugin(CircuitBreaker).changes.ejected == 1
        assert "401" in live.gateway.workers.all[0].conditions["circuit_breaker"].reason
