"""Each thing that can go wrong with a worker, and what its caller is told."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import httpx
import msgspec
import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.paths import DOCS
from support.steady import steady

from gateway import Call, CallError, Worker, hookimpl
from gateway.config import Timeouts
from gateway.simulator import Faults, Simulator, SimulatorConfig
from gateway.testing import MESSAGES, GatewayFor, Live, ScriptedWorker, answer_of

pytestmark = pytest.mark.usefixtures("kernel_of_module")

ERRORS = DOCS / "errors.md"

MESSAGES_BODY = {"messages": [dict(message) for message in MESSAGES], "seed": 1, "max_tokens": 12}
PROMPT_BODY = {"prompt": "The harbour", "seed": 1, "max_tokens": 12}
ASKED: Mapping[str, Mapping[str, object]] = {
    "/v1/chat/completions": MESSAGES_BODY,
    "/v1/completions": PROMPT_BODY,
}

SHORT = Timeouts(first_byte=0.1)


@pytest.fixture(params=ASKED, ids=["chat", "completions"])
def path(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=[False, True], ids=["plain", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


async def ask(
    client: httpx.AsyncClient, path: str = "/v1/chat/completions", fault: str = "", **body: object
) -> httpx.Response:
    headers = {"x-sim-fault": fault} if fault else {}
    return await client.post(path, json={**ASKED[path], **body}, headers=headers)


async def ask_raw(live: Live, path: str, fault: str, *, stream: bool) -> RawAnswer:
    """Raises CutShort where the connection ends before the answer does."""
    body = json.dumps({**ASKED[path], "stream": stream}).encode()
    headers = [(b"content-type", b"application/json"), (b"x-sim-fault", fault.encode())]
    async with RawClient(*live.server.address) as client:
        return await client.ask("POST", path, headers, body)


def error_of(answer: httpx.Response) -> Mapping[str, object]:
    error: Mapping[str, object] = answer.json()["error"]
    return error


# the gateway's own words: nothing of an answer had come


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("reset-before", 502, "upstream_closed"),
        ("garbage", 502, "upstream_protocol_error"),
        ("hang", 504, "upstream_first_byte_timeout"),
    ],
)
@steady
async def test_worker_without_a_response_becomes_a_gateway_error(
    gateway_for: GatewayFor, path: str, stream: bool, fault: str, status: int, code: str
) -> None:
    live = await gateway_for(timeouts=SHORT)
    answer = await ask(live.client, path, fault, stream=stream)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert error_of(answer).keys() == {"message", "type", "param", "code"}


async def test_worker_that_refuses_connections_becomes_a_502(
    gateway_for: GatewayFor, simulator: Simulator, path: str, stream: bool
) -> None:
    live = await gateway_for()
    simulator.refuse()
    answer = await ask(live.client, path, stream=stream)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_connect_failed")
    assert str(simulator.port) not in answer.text


@steady
async def test_gateway_serves_calls_after_worker_faults(gateway_for: GatewayFor) -> None:
    live = await gateway_for(timeouts=SHORT)
    for fault in ("reset-before", "garbage", "hang", "500"):
        assert (await ask(live.client, fault=fault)).status_code >= 500
    assert (await ask(live.client)).status_code == 200


class NoneFit:
    """Leaves no worker."""

    @hookimpl
    async def filter_workers(self, call: Call, workers: Sequence[Worker]) -> Sequence[Worker]:
        return ()


@pytest.mark.parametrize("plugins", [(), (NoneFit,)], ids=["none configured", "none fit"])
async def test_call_fails_with_no_worker_if_none_is_left(
    gateway_for: GatewayFor, simulator: Simulator, stream: bool, plugins: Sequence[type]
) -> None:
    live = await gateway_for(*plugins, workers=(simulator.url,) if plugins else ())
    answer = await ask(live.client, stream=stream)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_worker")
    assert int(answer.headers["retry-after"]) > 0


# the worker's words: they pass as they are


@pytest.mark.parametrize("fault", ["500", "503", "error-event:3", "abort:3", "slow:0.001", ""])
async def test_proxy_forwards_worker_responses_unchanged(
    gateway_for: GatewayFor, simulator: Simulator, path: str, stream: bool, fault: str
) -> None:
    live = await gateway_for()
    async with httpx.AsyncClient(base_url=simulator.url) as direct:
        for client in (direct, live.client):
            client.headers["x-request-id"] = "same"
        expected = await ask(direct, path, fault, stream=stream)
        answer = await ask(live.client, path, fault, stream=stream)
    assert answer.status_code == expected.status_code
    assert answer.headers["content-type"] == expected.headers["content-type"]
    assert _timeless(answer.content) == _timeless(expected.content)


def _timeless(body: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b'"created":0', body)


# broken off in the middle


CUTS = pytest.mark.parametrize(
    ("fault", "events"), [("reset:3", 3), ("close:3", 3), ("truncate", 1)]
)


@CUTS
async def test_cut_stream_breaks_after_its_last_whole_event(
    gateway_for: GatewayFor, path: str, fault: str, events: int
) -> None:
    live = await gateway_for()
    with pytest.raises(CutShort) as caught:
        await ask_raw(live, path, fault, stream=True)
    answer = caught.value.answer
    assert answer.status == 200
    assert answer.value(b"transfer-encoding") == b"chunked"
    assert answer.body.endswith(b"}\n\n")
    assert answer.body.count(b"data: {") == events
    assert b"error" not in answer.body
    assert b"[DONE]" not in answer.body


@CUTS
async def test_cut_stream_ends_with_an_error_event_if_the_operator_wants_it(
    gateway_for: GatewayFor, path: str, fault: str, events: int
) -> None:
    live = await gateway_for(stream_errors="event")
    with pytest.raises(CutShort) as caught:
        await ask_raw(live, path, fault, stream=True)
    said, _, last = caught.value.answer.body.partition(b"event: error\n")
    assert said.endswith(b"}\n\n")
    assert said.count(b"data: {") == events
    assert json.loads(last.removeprefix(b"data: ")) == {
        "type": "error",
        "error": {
            "message": "502 server error: the worker broke off before its answer was whole",
            "type": "server_error",
            "param": None,
            "code": 502,
            "gateway_code": "upstream_closed",
        },
    }
    assert last.endswith(b"\n\n")
    assert b"[DONE]" not in caught.value.answer.body


@pytest.mark.parametrize("fault", ["reset", "close", "truncate"])
async def test_cut_plain_response_ends_short_of_its_length(
    gateway_for: GatewayFor, simulator: Simulator, path: str, fault: str
) -> None:
    live = await gateway_for()
    whole = await ask(live.client, path)
    with pytest.raises(CutShort) as caught:
        await ask_raw(live, path, fault, stream=False)
    answer = caught.value.answer
    assert answer.status == 200
    assert answer.value(b"content-length") == b"%d" % len(whole.content)
    assert len(answer.body) < len(whole.content)
    assert b'"error"' not in answer.body


@pytest.mark.parametrize("fault", ["reset:2", "close:2", "truncate"])
async def test_httpx_raises_on_a_cut_response(
    gateway_for: GatewayFor, path: str, stream: bool, fault: str
) -> None:
    live = await gateway_for()
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(live.client, path, fault, stream=stream)


class Asking:
    """Injects, so that plain answers are held back until they are whole."""

    @hookimpl
    async def prepare(self, call: Call) -> None:
        await call.inject("token_ids")


@pytest.mark.parametrize("fault", ["reset", "close", "truncate"])
async def test_cut_plain_response_held_for_stripping_becomes_a_502(
    gateway_for: GatewayFor, path: str, fault: str
) -> None:
    live = await gateway_for(Asking)
    answer = await ask(live.client, path, fault)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_closed")


# another worker


@pytest.fixture
async def refusing() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(faults=Faults.parse("refuse"))) as running:
        yield running


async def test_failover_replaces_a_worker_that_refuses_connections(
    gateway_for: GatewayFor, simulator: Simulator, refusing: Simulator, path: str, stream: bool
) -> None:
    live = await gateway_for(workers=(refusing.url, simulator.url))
    answers = [await ask(live.client, path, stream=stream) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert simulator.stats.served == 4


async def test_failover_keeps_a_streamed_body_if_a_worker_refuses(
    gateway_for: GatewayFor, refusing: Simulator
) -> None:
    body = b"x" * (3 << 20)
    async with ScriptedWorker(answer_of(b"{}")) as worker:
        live = await gateway_for(workers=(refusing.url, worker.url))
        for _ in range(2):
            assert (await live.client.post("/v1/completions", content=body)).content == b"{}"
    assert [request.partition(b"\r\n\r\n")[2] == body for request in worker.requests] == [True] * 2


async def test_failover_keeps_a_worker_that_may_have_received_the_call(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    async with Simulator() as other:
        other.faults = simulator.faults = Faults.parse("reset-before")
        live = await gateway_for(workers=(simulator.url, other.url))
        assert (await ask(live.client)).status_code == 502
        assert simulator.stats.accepted + other.stats.accepted == 1


async def test_failover_reports_connect_failed_if_all_workers_refuse(
    gateway_for: GatewayFor, refusing: Simulator
) -> None:
    async with Simulator(SimulatorConfig(faults=Faults.parse("refuse"))) as other:
        live = await gateway_for(workers=(refusing.url, other.url))
        answer = await ask(live.client)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_connect_failed")


# the documentation


class Documented(msgspec.Struct, frozen=True):
    code: str
    status: int
    type: str


def _documented() -> list[Documented]:
    """The rows of the tables in docs/errors.md: | `code` | status | `type` | when | what to do |"""
    row = re.compile(r"^\| `(\w+)` \| (\d{3}) \| `(\w+)` \| .+ \| .+ \|$", re.MULTILINE)
    text = ERRORS.read_text(encoding="utf-8")
    return [Documented(code, int(status), kind) for code, status, kind in row.findall(text)]


def _all(kind: type[CallError]) -> Iterator[type[CallError]]:
    yield kind
    for narrower in kind.__subclasses__():
        if narrower.__module__ == "gateway.errors":
            yield from _all(narrower)


def test_manual_lists_every_error_code_once() -> None:
    real = [Documented(kind.code, kind.status, kind.type) for kind in _all(CallError)]
    found = _documented()
    assert sorted(found, key=str) == sorted(set(real), key=str)
