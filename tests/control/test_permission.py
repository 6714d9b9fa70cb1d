"""Scopes, models and workers: what the core lets a principal do, whoever said who it is."""

from collections.abc import Sequence

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from gateway import Call, Config, ConfigError, Forbidden, Gateway, Principal, Worker, hookimpl
from gateway.calls.records import Source
from gateway.control.routes import ControlRoute
from gateway.pipeline.authorization import SOURCES, check_scopes
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, entry, make_call

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


class Someone:
    """Knows everybody, and says what they may do."""

    def __init__(self) -> None:
        self.principal = Principal("me")

    @hookimpl
    async def authenticate(self, call: Call) -> Principal:
        return self.principal


@pytest.mark.parametrize("path", ["/v1/files", "/v1/%66iles/x", "/%761/files", "/v1%2Ffiles"])
def test_check_scopes_asks_for_the_scope_of_a_path_however_it_is_written(path: str) -> None:
    call = make_call(path=path)
    call.principal = Principal("me")
    with pytest.raises(Forbidden, match="`upload`"):
        check_scopes(call)


class Witness:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    @hookimpl
    async def prepare(self, call: Call) -> None:
        self.calls.append(call)


class Pages:
    def __init__(self) -> None:
        self.shown = 0

    @hookimpl
    def routes(self, gateway: Gateway) -> Sequence[BaseRoute]:
        page = Route("/page", self._page)
        return [
            gateway.guarded(page, scope="monitor"),
            gateway.control("/typed", scope="admin", GET=self._typed),
            gateway.control("/open", scope=None, GET=self._typed),
        ]

    async def _page(self, _: Request) -> PlainTextResponse:
        self.shown += 1
        return PlainTextResponse("shown")

    async def _typed(self, _: object) -> str:
        self.shown += 1
        return "shown"


async def ask(live: Live, *scopes: str, path: str = "/v1/chat/completions") -> tuple[int, str]:
    live.plugin(Someone).principal = Principal("me", frozenset(scopes))
    if path.startswith("/v1/chat"):
        answer = await live.client.post(path, json=CHAT)
    else:
        answer = await live.client.get(path)
    said = answer.json().get("error") if answer.status_code >= 400 else None
    return answer.status_code, said["message"] if said else ""


async def test_call_requires_a_source_scope_and_takes_its_source_from_it(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Someone, Witness)
    for source in SOURCES:
        assert (await ask(live, source, "admin"))[0] == 200
    assert (await ask(live, "eval", "batch"))[0] == 200
    sources: list[Source] = [call.source for call in live.plugin(Witness).calls]
    assert sources == ["realtime", "batch", "eval", "batch"]
    status, message = await ask(live, "admin", "monitor", "sessions")
    assert (status, "`realtime`" in message) == (403, True)
    assert simulator.stats.served == 4


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/files", "upload"),
        ("/v1/files/f-1/content", "upload"),
        ("/v1/uploads", "upload"),
        ("/v1/%66iles", "upload"),
        ("/v1/files%2Ff-1", "upload"),
        ("/v1/batches", "batch"),
        ("/v1/models", "realtime"),
        ("/version", "realtime"),
        ("/page", "monitor"),
        ("/typed", "admin"),
        ("/health/workers", "monitor"),
        ("/admin/workers", "admin"),
    ],
)
async def test_rejection_names_the_scope_that_a_path_requires(
    gateway_for: GatewayFor, path: str, scope: str
) -> None:
    live = await gateway_for(Someone, Pages)
    others = {"realtime", "batch", "eval", "upload", "sessions", "monitor", "admin"} - {scope}
    if scope == "realtime":
        others -= set(SOURCES)
    status, message = await ask(live, *others, path=path)
    assert (status, f"`{scope}`" in message) == (403, True)
    assert live.plugin(Pages).shown == 0
    assert (await ask(live, scope, path=path))[0] in (200, 404)  # as the worker knows it


async def test_open_route_requires_no_scope(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Someone, Pages)
    assert (await ask(live, path="/open"))[0] == 200
    assert (await ask(live, path="/health"))[0] == 200


async def test_routes_are_open_without_an_authentication_plugin(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Pages)
    for path in ("/page", "/typed", "/open"):
        assert (await live.client.get(path)).is_success


class Undeclared:
    @hookimpl
    def routes(self, gateway: Gateway) -> list[BaseRoute]:
        return [Route("/anything", lambda _: PlainTextResponse("seen"))]


def test_gateway_does_not_start_with_a_route_without_a_scope() -> None:
    with pytest.raises(ConfigError, match=r"'/anything' declares no scope.*gateway\.guarded"):
        Gateway(Config(plugins=(entry(Undeclared),)))


def test_all_routes_declare_a_scope() -> None:
    routes = Gateway(Config(plugins=(entry(Pages),))).routes
    assert all(hasattr(route, "scope") for route in routes)
    [typed] = [route for route in routes if getattr(route, "path", None) == "/typed"]
    assert isinstance(typed, ControlRoute)
    assert (typed.scope, typed.methods) == ("admin", frozenset({"GET"}))


async def test_principal_bound_to_models_may_call_no_others(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Someone)
    bound = live.plugin(Someone)
    bound.principal = Principal("me", models=frozenset({"other"}))
    refused = await live.client.post("/v1/chat/completions", json=CHAT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    nameless = await live.client.post("/v1/audio/speech", content=b"\x00not JSON")
    assert nameless.status_code == 403
    long = {**CHAT, "messages": [{"role": "user", "content": "x" * 2_000_000}]}
    refused = await live.client.post("/v1/chat/completions", json=long)
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model")
    assert simulator.stats.accepted == 0
    bound.principal = Principal("me", models=frozenset({"sim"}))
    assert (await live.client.post("/v1/chat/completions", json=CHAT)).is_success


async def test_principal_bound_to_workers_reaches_no_others(gateway_for: GatewayFor) -> None:
    async with Simulator() as one, Simulator() as two:
        live = await gateway_for(Someone, Witness, workers=(one.url, two.url))
        workers: tuple[Worker, ...] = live.gateway.workers.all
        bound = live.plugin(Someone)
        bound.principal = Principal("me", workers=frozenset({workers[1].id}))
        for _ in range(4):
            assert (await live.client.post("/v1/chat/completions", json=CHAT)).is_success
        assert (one.stats.served, two.stats.served) == (0, 4)
        bound.principal = Principal("me", workers=frozenset({"nobody"}))
        answer = await live.client.post("/v1/chat/completions", json=CHAT)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")


async def test_internal_call_is_not_authenticated(
    gateway_for: GatewayFor, simulator: Simulator
) -> None:
    live = await gateway_for(Someone, Witness)
    live.plugin(Someone).principal = Principal("me", frozenset())
    call = make_call(CHAT, headers={"content-type": "application/json"})
    call.internal, call.source = True, "batch"
    await live.gateway.proxy.dispatch(call)
    assert (call.caller.status, call.principal) == (200, None)
    assert call.source == "batch"
