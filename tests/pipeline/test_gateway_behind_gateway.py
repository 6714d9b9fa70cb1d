"""A gateway whose worker is another gateway: its caller is told each thing once."""

import json
from collections import Counter

import pytest
from support.callers.raw_client import CutShort, Headers, RawAnswer, RawClient
from support.plugins.recording_plugin import until

from gateway import Call, NoWorker, hookimpl
from gateway.config import Cors, Failover, Timeouts, Worker
from gateway.simulator import Faults, Simulator, SimulatorConfig
from gateway.testing import GatewayFor, Live, ScriptedWorker, answer_of, entry

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
LIMITS = b"x-ratelimit-"
REQUESTS = b"x-ratelimit-limit-requests"


class Commenting:
    """Sends a comment, and then has no worker."""

    @hookimpl
    async def handle(self, call: Call) -> None:
        call.keep_alive()
        raise NoWorker("nobody")


async def ask(live: Live, headers: Headers | None = None, *, stream: bool = False) -> RawAnswer:
    """The answer; of one that is cut, what had come."""
    body = json.dumps({"model": "sim", "messages": MESSAGES, "stream": stream}).encode()
    lines = [(b"content-type", b"application/json"), *(headers or [])]
    async with RawClient(*live.server.address) as client:
        try:
            return await client.ask("POST", CHAT, lines, body)
        except CutShort as cut:
            return cut.answer


def code_of(answer: RawAnswer) -> str:
    code: str = json.loads(answer.body)["error"]["code"]
    return code


def behind(inner: Live) -> list[Worker]:
    return [Worker(url=inner.url, worker_id="inner")]


def once(answer: RawAnswer) -> None:
    """No header is there twice but those that are lists."""
    names = Counter(name.lower() for name, _ in answer.headers)
    lists = (b"vary", b"server-timing")
    assert [name for name, count in names.items() if count > 1 and name not in lists] == []


@pytest.mark.parametrize(
    ("inner_mode", "outer_mode", "events"),
    [("break", "break", 0), ("event", "break", 1), ("break", "event", 1), ("event", "event", 1)],
)
async def test_chain_sends_one_error_event_at_most(
    gateway_for: GatewayFor, inner_mode: str, outer_mode: str, events: int
) -> None:
    inner = await gateway_for(stream_errors=inner_mode)
    outer = await gateway_for(workers=behind(inner), stream_errors=outer_mode)
    answer = await ask(outer, [(b"x-sim-fault", b"reset:3")], stream=True)
    assert answer.status == 200
    assert answer.body.count(b"event: error\n") == events
    assert answer.body.count(b"upstream_closed") == events
    assert b"[DONE]" not in answer.body
    assert answer.body.endswith(b"\n\n")


@pytest.mark.parametrize("mode", ["break", "event"])
async def test_chain_sends_one_event_for_a_call_that_failed_in_its_wait(
    gateway_for: GatewayFor, mode: str
) -> None:
    inner = await gateway_for(Commenting)
    outer = await gateway_for(workers=behind(inner), stream_errors=mode)
    answer = await ask(outer, stream=True)
    assert answer.body.count(b"event: error\n") == 1
    assert json.loads(answer.body.partition(b"data: ")[2])["error"]["gateway_code"] == "no_worker"


async def test_chain_names_the_limits_of_the_gateway_nearest_to_the_caller(
    gateway_for: GatewayFor,
) -> None:
    inner = await gateway_for(
        entry("limits", default={"requests_per_minute": 7, "tokens_per_minute": 9000})
    )
    outer = await gateway_for(
        entry("limits", default={"requests_per_minute": 5}), workers=behind(inner)
    )
    answer = await ask(outer)
    assert answer.status == 200
    assert answer.values(REQUESTS) == [b"5"]
    assert all(b"tokens" not in name for name, _ in answer.headers if name.startswith(LIMITS))
    once(answer)


async def test_chain_names_the_limits_of_the_gateway_that_rejects(gateway_for: GatewayFor) -> None:
    limits = {"requests_per_minute": 1, "burst_requests": 1}
    inner = await gateway_for(entry("limits", default=limits))
    outer = await gateway_for(
        entry("limits", default={"requests_per_minute": 5}), workers=behind(inner)
    )
    assert (await ask(outer)).status == 200
    answer = await ask(outer)
    assert (answer.status, code_of(answer)) == (429, "requests_per_minute")
    assert answer.values(REQUESTS) == [b"1"]
    assert int(answer.value(b"retry-after") or b"0") > 1
    once(answer)


@pytest.mark.parametrize("given", [b"", b"abc"])
async def test_chain_has_one_request_id(gateway_for: GatewayFor, given: bytes) -> None:
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        inner = await gateway_for(workers=[worker.url])
        outer = await gateway_for(workers=behind(inner), cors=Cors(origins=("*",)))
        answer = await ask(outer, [(b"x-request-id", given)] if given else None)
        [found] = answer.values(b"x-request-id")
        assert b"x-request-id: %b\r\n" % found in worker.requests[0]
    assert found == given or not given
    once(answer)


async def test_chain_forwards_the_reason_of_the_inner_gateway(gateway_for: GatewayFor) -> None:
    gone = Worker(url="http://127.0.0.1:9", worker_id="gone")
    async with Simulator(SimulatorConfig(faults=Faults.parse("hang"))) as hung:
        inners = {
            (502, "upstream_connect_failed"): await gateway_for(workers=[gone]),
            (503, "no_worker"): await gateway_for(workers=[]),
            (504, "upstream_first_byte_timeout"): await gateway_for(
                workers=[hung.url], timeouts=Timeouts(first_byte=0.1)
            ),
        }
        for reason, inner in inners.items():
            outer = await gateway_for(workers=behind(inner))
            answer = await ask(outer)
            assert (answer.status, code_of(answer)) == reason
            assert answer.values(b"x-gateway-worker") == [b"inner"]
            once(answer)


async def test_chain_lists_the_attempts_of_the_outer_gateway_alone(gateway_for: GatewayFor) -> None:
    async with ScriptedWorker(answer_of(b"{}", status="503 Busy")) as busy:
        twice = [Worker(url=busy.url, worker_id=name) for name in ("a", "b")]
        inner = await gateway_for(workers=twice, failover=Failover(backoff=0.001, rerun=True))
        direct = await ask(inner)
        assert direct.values(b"x-gateway-attempts") == [b"a=503, b=503"] or direct.values(
            b"x-gateway-attempts"
        ) == [b"b=503, a=503"]
        outer = await gateway_for(workers=behind(inner))
        answer = await ask(outer)
    assert answer.status == 503
    assert answer.values(b"x-gateway-attempts") == []


async def test_chain_ends_the_generation_if_the_caller_leaves(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    inner = await gateway_for()
    outer = await gateway_for(workers=behind(inner))
    body = {"model": "sim", "messages": MESSAGES, "stream": True}
    headers = {"x-sim-itl": "60"}
    async with outer.client.stream("POST", CHAT, json=body, headers=headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                break
    await until(lambda: not outer.gateway.calls_in_flight)
    await until(lambda: not inner.gateway.calls_in_flight)
