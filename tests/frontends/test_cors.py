"""What pages of other sites may do, and the preflight that their browser sends without a key."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.callers.raw_client import CutShort, RawAnswer, RawClient
from support.gateways.reloadable import reloadable
from support.plugins.recording_plugin import until

from gateway import Call, Gateway, NoWorker, TooManyRequests, hookimpl
from gateway.config import Config, Cors, PluginEntry, Worker, load
from gateway.errors import ConfigError
from gateway.frontends.cors import MAX_ASKED
from gateway.simulator import Simulator
from gateway.testing import (
    DONE,
    NO_PROBES,
    GatewayFor,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
)

CHAT = "/v1/chat/completions"
PAGE = "https://chat.example"
CORS = Cors(origins=(PAGE, "http://localhost:3000"))
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
ALLOW = b"access-control-allow-origin"
OWN_LAYER = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\naccess-control-allow-origin: %b\r\n"
    b"access-control-allow-headers: authorization,content-type\r\nx-inner: 1\r\nvary: Origin\r\n"
    b"\r\nOK"
)


class Refusing:
    @hookimpl
    async def admit(self, call: Call) -> None:
        raise TooManyRequests("slowly", headers=((b"retry-after", b"7"),))


class Seeing:
    """Counts the calls that plugins see."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @hookimpl
    def observe(self, call: Call) -> object:
        self.calls.append(call.method)
        return object()


class Waiting:
    """Sends a comment, and then has no worker."""

    @hookimpl
    async def handle(self, call: Call) -> None:
        call.keep_alive()
        raise NoWorker("nobody")


@pytest.fixture
def auth(tmp_path: Path) -> PluginEntry:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [{"id": "a", "token": "gw-a", "scopes": ["realtime"]}]}))
    file.chmod(0o600)
    return entry("auth", keys_file=str(file))


async def ask(
    live: Live, method: str = "POST", path: str = CHAT, body: bytes = b"{}", **headers: str
) -> RawAnswer:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    async with RawClient(*live.server.address) as client:
        return await client.ask(method, path, lines, body)


async def preflight(live: Live, path: str = CHAT, **changed: str) -> httpx.Response:
    return await live.client.options(path, headers={**PREFLIGHT, **changed})


@asynccontextmanager
async def with_own_layer(origin: bytes = b"*") -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker(OWN_LAYER % origin) as worker:
        yield worker


# origins are named


@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/sessions/a/v1/messages"])
async def test_preflight_of_an_allowed_page_is_answered_without_a_key_or_a_worker(
    gateway_for: GatewayFor, auth: PluginEntry, path: str
) -> None:
    live = await gateway_for(auth, "sessions", Seeing, workers=(), cors=CORS)
    answer = await preflight(live, path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-max-age"] == "600"
    assert answer.headers["vary"] == "origin"
    assert live.plugin(Seeing).calls == []


@pytest.mark.parametrize("origin", ["https://evil.example", "https://chat.example.evil", "null"])
async def test_preflight_of_another_page_is_rejected(gateway_for: GatewayFor, origin: str) -> None:
    async with with_own_layer() as worker:
        live = await gateway_for(workers=(worker.url,), cors=CORS)
        answer = await preflight(live, origin=origin)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
        assert worker.requests == []


async def test_star_allows_every_page_without_naming_it(gateway_for: GatewayFor) -> None:
    live = await gateway_for(cors=Cors(origins=("*",), max_age=5))
    answer = await preflight(live, origin="null")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-max-age"] == "5"
    assert "vary" not in answer.headers


@pytest.mark.parametrize("inner", [b"*", b"", b"https://chat.example"])
async def test_response_names_its_page_once_whatever_the_worker_says(
    gateway_for: GatewayFor, inner: bytes
) -> None:
    async with with_own_layer(inner) as worker:
        live = await gateway_for(workers=(worker.url,), cors=CORS)
        answer = await ask(live, origin=PAGE)
        assert answer.values(ALLOW) == [PAGE.encode()]
        assert answer.values(b"access-control-allow-headers") == []
        other = await ask(live, origin="https://evil.example")
        assert other.values(ALLOW) == []
        nobody = await ask(live)
        assert nobody.values(ALLOW) == []
        for one in (answer, other, nobody):
            assert b"origin" in [value.lower() for value in one.values(b"vary")]
            assert (one.status, one.body, one.value(b"x-inner")) == (200, b"OK", b"1")


async def test_errors_can_be_read_by_an_allowed_page(
    gateway_for: GatewayFor, auth: PluginEntry
) -> None:
    live = await gateway_for(auth, Refusing, cors=CORS)
    for status, path, key in ((401, CHAT, "no"), (429, CHAT, "gw-a"), (404, "/v1/../x", "gw-a")):
        answer = await ask(live, path=path, origin=PAGE, authorization=f"Bearer {key}")
        assert answer.status == status
        assert answer.values(ALLOW) == [PAGE.encode()]
        exposed = answer.value(b"access-control-expose-headers") or b""
        assert {b"x-request-id", b"retry-after"} <= set(exposed.split(b", "))


@pytest.mark.parametrize("session", ["%ff", "", "a/b", "a/"])
async def test_refused_session_can_be_read_by_an_allowed_page(
    gateway_for: GatewayFor, session: str
) -> None:
    live = await gateway_for("sessions", cors=CORS)
    answer = await ask(live, path=f"/sessions/{session}{CHAT}", origin=PAGE)
    assert (answer.status, answer.values(ALLOW)) == (404, [PAGE.encode()])
    assert (await ask(live, path=f"/sessions/{session}{CHAT}")).values(ALLOW) == []


async def test_streams_can_be_read_by_an_allowed_page(gateway_for: GatewayFor) -> None:
    live = await gateway_for(cors=CORS)
    body = json.dumps(
        {"model": "sim", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    ).encode()
    answer = await ask(live, body=body, origin=PAGE, content_type="application/json")
    assert answer.values(ALLOW) == [PAGE.encode()]
    assert answer.body.endswith(DONE)


async def test_error_after_comments_can_be_read_by_an_allowed_page(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Waiting, cors=CORS)
    with pytest.raises(CutShort) as cut:
        await ask(live, origin=PAGE)
    assert cut.value.answer.values(ALLOW) == [PAGE.encode()]


async def test_admin_routes_stay_closed_to_pages(gateway_for: GatewayFor) -> None:
    live = await gateway_for(cors=Cors(origins=("*",)))
    for path in ("/admin/workers", "/health/workers"):
        answer = await preflight(live, path)
        assert answer.status_code >= 400
        assert "access-control-allow-origin" not in answer.headers
        got = await live.client.get(path, headers={"origin": PAGE})
        assert "access-control-allow-origin" not in got.headers


async def test_call_that_is_no_preflight_needs_its_key(
    gateway_for: GatewayFor, auth: PluginEntry
) -> None:
    live = await gateway_for(auth, cors=CORS)
    assert (await ask(live, "OPTIONS", body=b"", origin=PAGE)).status == 401
    with_body = {name.replace("-", "_"): value for name, value in PREFLIGHT.items()}
    assert (await ask(live, "OPTIONS", CHAT, b"{}", **with_body)).status == 401
    assert (await ask(live, origin=PAGE)).status == 401


# none is named: the workers decide


async def test_preflight_goes_to_a_worker_if_no_origin_is_named(
    gateway_for: GatewayFor, auth: PluginEntry
) -> None:
    async with with_own_layer() as worker:
        live = await gateway_for(auth, Seeing, workers=(worker.url,))
        answer = await preflight(live, cookie="secret=1", authorization="Bearer secret")
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "x-inner" not in answer.headers
        [request] = worker.requests
        assert request.startswith(b"OPTIONS /v1/chat/completions HTTP/1.1\r\n")
        assert b"secret" not in request
        assert live.plugin(Seeing).calls == []
        assert (await ask(live)).status == 401


async def test_worker_without_a_cors_layer_forbids_pages_as_it_does_directly(
    gateway_for: GatewayFor,
) -> None:
    said = answer_of(b'{"detail": "no"}', status="405 No")
    async with ScriptedWorker(said) as worker:
        live = await gateway_for(workers=(worker.url,))
        answer = await preflight(live)
    assert (answer.status_code, answer.content) == (405, b"")
    assert "access-control-allow-origin" not in answer.headers


async def test_preflight_without_a_worker_says_so(gateway_for: GatewayFor) -> None:
    live = await gateway_for(workers=())
    answer = await preflight(live)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")


async def test_preflights_without_a_key_are_few_at_a_time(gateway_for: GatewayFor) -> None:
    proceed = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await proceed.wait()
        await connection.write(OWN_LAYER % b"*")

    async with ScriptedWorker(script) as worker:
        live = await gateway_for(workers=(worker.url,))
        asked = [asyncio.create_task(preflight(live)) for _ in range(MAX_ASKED)]
        await until(lambda: len(worker.requests) == MAX_ASKED)
        assert (await preflight(live)).json()["error"]["code"] == "too_many_calls"
        proceed.set()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        assert (await preflight(live)).status_code == 200


async def test_worker_cors_headers_pass_if_no_origin_is_named(gateway_for: GatewayFor) -> None:
    async with with_own_layer() as worker:
        live = await gateway_for(workers=(worker.url,))
        answer = await ask(live, origin=PAGE)
    assert answer.values(ALLOW) == [b"*"]


async def test_reload_changes_the_pages_that_may_make_calls(
    simulator: Simulator, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    async with reloadable(file, workers=[simulator.url], cors={"origins": [PAGE]}) as running:
        assert (await running.client.options(CHAT, headers=PREFLIGHT)).status_code == 204
        await running.changed(workers=[simulator.url], cors={"origins": ["https://new.example"]})
        assert (await running.client.options(CHAT, headers=PREFLIGHT)).status_code == 403


@pytest.mark.parametrize("origin", ["https://a.example/", "a.example", "https://*.example", ""])
def test_origin_that_no_browser_sends_is_a_mistake(origin: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps({"cors": {"origins": [origin]}}))
    with pytest.raises(ConfigError, match=r'expected an origin like "https://chat\.example"'):
        load(file)


async def test_page_of_an_embedded_gateway_is_answered_as_well(simulator: Simulator) -> None:
    config = Config(workers=(Worker(url=simulator.url),), cors=CORS, probes=NO_PROBES)
    async with Gateway(config) as gateway:
        transport = httpx.ASGITransport(app=gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            assert (await client.options(CHAT, headers=PREFLIGHT)).status_code == 204
            answer = await client.post(CHAT, content=b"{}", headers={"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
