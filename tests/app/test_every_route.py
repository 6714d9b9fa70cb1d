"""Every route there is: what scope it asks for, whom it refuses, and that nothing breaks it.

A route that is not in the tables here fails a test, so none can be forgotten.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given
from starlette.routing import BaseRoute
from support.callers.garbage_requests import JSON, Garbage, garbage, written
from support.callers.raw_client import RawAnswer, RawClient
from support.gateways.event_loop import Stage

from gateway import Call, Gateway, Principal, hookimpl
from gateway.calls.control_request import ControlRequest, Handler
from gateway.calls.records import Wanted
from gateway.config import Config, StorageSettings, Worker
from gateway.control.routes import ControlRoute
from gateway.control.scoped import CARRIED, ScopedRoute
from gateway.pipeline.authorization import SCOPES, SOURCES
from gateway.simulator import Simulator
from gateway.testing import MESSAGES, NO_PROBES, Live, entry, live

Rule = tuple[str, tuple[str, ...], Wanted | None]
"""A route: its path, its methods (none: what it leads to knows them), its scope."""

HANDOVER = ("claim", "ack", "release", "extend")

CORE: set[Rule] = {
    ("/v1/{path:path}", (), CARRIED),
    ("/tokenize", (), CARRIED),
    ("/detokenize", (), CARRIED),
    ("/tokenizer_info", (), CARRIED),
    ("/version", (), CARRIED),
    ("/inference/v1/generate", (), CARRIED),
    ("/health", (), None),
    ("/ready", (), None),
    ("/health/workers", ("GET",), "monitor"),
    ("/admin/reload", ("POST",), "admin"),
    ("/admin/workers", ("GET", "POST"), "admin"),
    ("/admin/workers/{worker_id}/drain", ("POST",), "admin"),
    ("/admin/workers/{worker_id}/undrain", ("POST",), "admin"),
    ("/admin/workers/{worker_id}", ("DELETE", "GET", "PATCH"), "admin"),
}

PLUGINS: set[Rule] = {
    ("/sessions/{rest:path}", (), CARRIED),
    ("/sessions", ("GET", "POST"), "sessions"),
    ("/sessions/batch_delete", ("DELETE", "GET", "POST"), "sessions"),
    ("/sessions/{session_id}/traces", ("GET",), "sessions"),
    ("/sessions/{session_id}/trajectories", ("GET",), "sessions"),
    ("/sessions/{session_id}/rewards", ("GET", "POST"), "sessions"),
    ("/sessions/{session_id}", ("DELETE", "GET"), "sessions"),
    ("/traces/query", ("POST",), "sessions"),
    *((f"/trajectories/{one}", ("POST",), "sessions") for one in HANDOVER),
    ("/traces/{trace_id}", ("GET",), "sessions"),
    ("/admin/flush", ("POST",), "sessions"),
    ("/admin/weight_version", ("GET", "POST"), "admin"),
    ("/health/training", ("GET",), "monitor"),
    ("/admin/weights", ("GET", "POST"), "admin"),
    ("/admin/weights/pause", ("POST",), "admin"),
    ("/admin/weights/resume", ("POST",), "admin"),
    ("/admin/route", ("GET",), "admin"),
    ("/admin/admission", ("GET",), "monitor"),
    ("/admin/load", ("GET",), "monitor"),
    ("/admin/queue", ("GET",), "monitor"),
    ("/admin/limits", ("GET",), "monitor"),
    ("/monitor/key_usage", ("GET",), "monitor"),
    ("/monitor/calls", ("GET",), "monitor"),
    ("/monitor/run_usage", ("GET",), "monitor"),
    ("/budgets/sessions/{session_id}", ("GET", "POST"), ("sessions:all", "admin")),
    ("/budgets/runs/{run_id}", ("GET", "POST"), ("sessions:all", "admin")),
    ("/metrics", ("GET",), "monitor"),
}

TRL_CALLS = (
    *("/health/", "/get_world_size/", "/get_world_size", "/server_info", "/generate/", "/generate"),
    *("/chat/", "/chat", "/get_sequence_logprobs/", "/get_sequence_logprobs"),
)
TRL_CHANGES = (
    *("/init_communicator/", "/init_communicator", "/update_named_param/", "/update_named_param"),
    *("/batch_update_named_params/", "/batch_update_named_params"),
    *("/reset_prefix_cache/", "/reset_prefix_cache", "/close_communicator/", "/close_communicator"),
    *("/init_weight_transfer_engine", "/start_weight_update", "/update_weights"),
    *("/finish_weight_update", "/pause", "/resume", "/update_weight_version"),
)
TRL: set[Rule] = {
    ("/admin/trl", ("GET",), "monitor"),
    *((path, (), CARRIED) for path in (*TRL_CALLS, *TRL_CHANGES)),
}

OF_BATCH = (
    *("/v1/batch/completions/{item_id}", "/v1/batch/chat/completions/{item_id}"),
    "/v1/jobs/{item_id}",
)
FILES = ("batch", "upload")
UPLOAD_ENDS = ("parts", "complete", "cancel")
ITEM_ENDS = ("cancel", "requeue")
BATCH: set[Rule] = {
    *((path, ("DELETE", "GET"), "batch") for path in OF_BATCH),
    *((path.removesuffix("/{item_id}"), ("POST",), "batch") for path in OF_BATCH),
    ("/v1/batch", ("GET",), "batch"),
    *((f"/admin/batch/items/{{item_id}}/{end}", ("POST",), "admin") for end in ITEM_ENDS),
    ("/admin/batch/requeue", ("POST",), "admin"),
    ("/admin/batch/batches/{batch_id}/cancel", ("POST",), "admin"),
    ("/v1/batches", ("GET", "POST"), "batch"),
    ("/v1/batches/{batch_id}", ("DELETE", "GET"), "batch"),
    ("/v1/batches/{batch_id}/cancel", ("POST",), "batch"),
    ("/v1/files", ("GET", "POST"), FILES),
    ("/v1/files/{file_id}", ("DELETE", "GET"), FILES),
    ("/v1/files/{file_id}/content", ("GET",), FILES),
    ("/v1/uploads", ("POST",), FILES),
    *((f"/v1/uploads/{{upload_id}}/{end}", ("POST",), FILES) for end in UPLOAD_ENDS),
}

PAGE = (
    *("/dashboard", "/dashboard/files/{name}", "/dashboard/login", "/dashboard/logout"),
    *("/dashboard/parts", "/dashboard/events", "/dashboard/panels", "/dashboard/panels/{name}"),
    "/dashboard/api/{path:path}",
)
DASHBOARD: set[Rule] = {
    *((path, (), None) for path in PAGE),
    *((f"/ui/{name}", ("GET",), "monitor") for name in ("summary", "queue", "evals")),
    ("/ui/eval_matrix", ("GET",), "monitor"),
    ("/ui/runtime/logs", ("GET",), "logs"),
}

CARRIED_FOR = dict.fromkeys(TRL_CHANGES, "admin")
"""What those ask for that lead to more than a model; others ask for any of SOURCES."""

KEPT = "the-simulator"
"""A worker that no example names, so that it stays."""

WEIGHTS = {"max_wait": 0.1, "drain_timeout": 0.1, "step_timeout": 0.5}
TRL_WEIGHTS = {"max_wait": 0.1, "drain_timeout": 0.1, "timeout": 0.5}
SETS: dict[str, Sequence[Any]] = {
    "all": (
        *("sessions", "circuit_breaker", entry("weight_sync", **WEIGHTS)),
        "gateway_plugins.session_admission:SessionAdmission",
        "gateway_plugins.load_aware:LoadAware",
        *("gateway_plugins.join_retries:JoinRetries", "gateway_plugins.budgets:Budgets"),
        *(entry("backpressure", no_worker="refuse"), "stickiness"),
        *("trace_capture", "usage", "limits", "openai_models", "metrics", "access_log"),
    ),
    "trl": (entry("trl", **TRL_WEIGHTS),),
    "batch": ("batch",),
    "dashboard": ("dashboard",),
}
RULES = {
    "all": CORE | PLUGINS,
    "trl": CORE | TRL,
    "batch": CORE | BATCH,
    "dashboard": CORE | DASHBOARD,
}
OWN = {"all": CORE | PLUGINS, "trl": TRL, "batch": BATCH, "dashboard": DASHBOARD}


class Holders:
    """A key is the scopes of its principal: `realtime+sessions:all`. Keeps whom it let in."""

    def __init__(self) -> None:
        self.admitted: list[Call] = []

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        given = call.header("authorization") or ""
        if not given.startswith("Bearer "):
            return None
        workers = frozenset((KEPT,)) if call.header("x-kept") else None
        scopes = frozenset(given.removeprefix("Bearer ").split("+"))
        return Principal("holder", scopes, workers=workers)

    @hookimpl
    async def admit(self, call: Call) -> None:
        self.admitted.append(call)


class Watched(Gateway):
    """Notes which handlers of routes have run."""

    def __init__(self, config: Config) -> None:
        self.ran: list[str] = []
        super().__init__(config)

    def control(self, path: str, *, scope: Wanted | None, **handlers: Handler) -> ControlRoute:
        def noting(handler: Handler) -> Handler:
            async def run(request: ControlRequest) -> Any:
                self.ran.append(path)
                return await handler(request)

            return run

        watched = {method: noting(handler) for method, handler in handlers.items()}
        return super().control(path, scope=scope, **watched)


class World(Stage):
    """A gateway with every plugin that can stand beside the others, before a simulator."""

    def open(self, plugins: Sequence[Any]) -> None:
        worker = Worker(url=self.enter(Simulator()).url, worker_id=KEPT)
        named = (entry(one) if isinstance(one, str) else one for one in (Holders, *plugins))
        named = (entry(one) if isinstance(one, type) else one for one in named)
        config = Config(
            workers=(worker,),
            plugins=tuple(named),
            storage=StorageSettings(path=":memory:"),
            probes=NO_PROBES,
        )
        self.gateway = Watched(config)
        self.live: Live = self.enter(live(self.gateway))

    @property
    def reached(self) -> int:
        """How many handlers of routes have run, and how many calls were let in."""
        return len(self.gateway.ran) + len(self.live.plugin(Holders).admitted)

    async def send(self, request: bytes, method: str = "GET") -> RawAnswer:
        async with RawClient(*self.live.server.address) as client:
            await client.send(request)
            return await client.answer(method)

    async def ask(self, method: str, path: str, scopes: Collection[str] | None) -> RawAnswer:
        key = [] if scopes is None else [b"authorization: Bearer " + "+".join(scopes).encode()]
        return await self.send(written(method.encode(), path.encode(), key, b"{}"), method)

    async def works(self) -> bool:
        body = json.dumps({"messages": [dict(one) for one in MESSAGES], "max_tokens": 1})
        headers = [b"authorization: Bearer realtime", b"x-kept: 1", JSON]
        request = written(b"POST", b"/v1/chat/completions", headers, body.encode())
        return (await self.send(request)).status == 200

    async def mend(self) -> None:
        """Let nothing of one example hold up the next: neither a pause nor the workers it added."""
        await self.ask("POST", "/admin/weights/resume", SCOPES)
        listed = await self.ask("GET", "/admin/workers", SCOPES)
        for worker in msgspec.json.decode(listed.body):
            if worker["worker_id"] != KEPT:
                path = f"/admin/workers/{quote(worker['worker_id'], safe='')}"
                assert (await self.ask("DELETE", path, SCOPES)).status == 200, path


@pytest.fixture(scope="module", params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def world(name: str) -> Iterator[World]:
    with World() as world:
        world.open(SETS[name])
        yield world


def rule_of(route: BaseRoute) -> Rule:
    assert isinstance(route, ControlRoute | ScopedRoute), f"{route} declares no scope"
    methods = route.methods if isinstance(route, ControlRoute) else ()
    return route.path, tuple(sorted(methods)), route.scope


def example_of(path: str) -> str:
    path = path.replace("/sessions/{rest:path}", "/sessions/x/v1/models")
    return re.sub(r"\{[^}]*\}", "x", path)


def test_every_route_is_in_the_tables(world: World, name: str) -> None:
    assert {rule_of(route) for route in world.gateway.routes} == RULES[name]


def test_health_is_the_only_route_without_a_scope(world: World) -> None:
    open_ones = {path for path, _, scope in map(rule_of, world.gateway.routes) if scope is None}
    assert open_ones - {*PAGE} == {"/health", "/ready"}  # pages know their viewers themselves
    assert world.run(world.ask("GET", "/health", None)).status == 200


def guarded_requests(rules: set[Rule]) -> list[tuple[str, str, frozenset[str]]]:
    """Each with a method and the scopes of which any one lets it in."""
    found = []
    for path, methods, scope in sorted(rules, key=str):
        if scope is not None:
            one = CARRIED_FOR.get(path) if scope == CARRIED else scope
            enough = {one} - {None} if not isinstance(one, tuple) else {*one}
            tried = methods or ("GET", "POST")
            some = frozenset(map(str, enough)) or frozenset(SOURCES)
            found += [(method, example_of(path), some) for method in (*tried, "HEAD", "OPTIONS")]
    return found


def test_routes_reject_requests_without_a_key(world: World, name: str) -> None:
    before = world.reached
    for method, path, _ in guarded_requests(RULES[name]):
        for lacking in (None, ["nothing"], SCOPES):
            key = (
                [] if lacking is None else [b"authorization: Basic %b" % "+".join(lacking).encode()]
            )
            answer = world.run(
                world.send(written(method.encode(), path.encode(), key, b""), method)
            )
            assert answer.status == 401, (method, path)
            assert answer.value(b"www-authenticate") == b"Bearer"
            if method != "HEAD":
                assert code_of(answer) == "invalid_api_key"
    assert world.reached == before


def test_routes_reject_a_key_that_lacks_their_scope(world: World, name: str) -> None:
    before = world.reached
    for method, path, enough in guarded_requests(RULES[name]):
        answer = world.run(world.ask(method, path, SCOPES - enough))
        assert answer.status == 403, (method, path)
        if method != "HEAD":
            assert code_of(answer) == "missing_scope"
            assert any(f"`{scope}`" in message_of(answer) for scope in enough)
    assert world.reached == before


def test_routes_accept_a_key_with_only_their_scope(world: World, name: str) -> None:
    for method, path, enough in guarded_requests(RULES[name]):
        for scope in enough:
            answer = world.run(world.ask(method, path, [scope]))
            assert answer.status != 401
            assert b'"code":"missing_scope"' not in answer.body, (method, path, scope)


BESIDE = {
    "/v1/files": "upload",
    "/v1/files/x/content": "upload",
    "/v1/uploads": "upload",
    "/v1/%66iles": "upload",
    "/v1/batches": "batch",
}
"""Whatever else lies under /v1 is for any of SOURCES."""


def test_file_and_batch_paths_require_their_own_scope(world: World, name: str) -> None:
    below = ("", "/sessions/x") if name == "all" else ("",)
    for path, scope in (
        (prefix + path, scope) for prefix in below for path, scope in BESIDE.items()
    ):
        if world.gateway.edge.is_claimed(path):
            continue  # a route may be there, which has its own scope
        refused = world.run(world.ask("POST", path, SCOPES - {scope}))
        assert code_of(refused) == "missing_scope", path
        simulators = world.run(world.ask("POST", path, [scope]))
        assert simulators.status == 404, path


def code_of(answer: RawAnswer) -> str:
    return str(msgspec.json.decode(answer.body)["error"]["code"])


def message_of(answer: RawAnswer) -> str:
    assert list(msgspec.json.decode(answer.body)) == ["error"]
    return str(msgspec.json.decode(answer.body)["error"]["message"])


# whatever is sent


@given(garbage)
@example(Garbage([*range(99)], None, b"x", b"", [], b'{"a":' * 3_000))
@example(Garbage([*range(99)], None, b"%ED%A0%80", b"limit=9" + b"9" * 400, [], b'["\\ud800"]'))
def test_routes_survive_garbage_requests(world: World, name: str, garbage: Garbage) -> None:
    rules = sorted((rule for rule in OWN[name] if rule[0] not in ENDLESS), key=str)
    key = b"authorization: Bearer " + "+".join(SCOPES).encode()
    some = dict.fromkeys(rules[place % len(rules)] for place in garbage.places)
    for path, methods, scope in some:
        for method, request in garbage.to(path, methods, key):
            answer = world.run(world.send(request, method.decode()))
            check(answer, EVENTS if scope == CARRIED else MAY_SAY.get(path, ()), request)
    if name == "all":
        world.run(world.mend())
    assert world.run(world.works())


def check(answer: RawAnswer, kinds: Sequence[bytes], request: bytes) -> None:
    """JSON, or one of these kinds, and no sign of anything broken."""
    shown = (request[:300], answer.status, answer.body[:300])
    assert answer.status not in (401, 500, 502, 504), shown
    assert b"Traceback" not in answer.body, shown
    kind = (answer.value(b"content-type") or b"").partition(b";")[0]
    if kind == b"application/json":
        assert not answer.body or msgspec.json.decode(answer.body) is not None, shown
    elif answer.body:
        assert kind in kinds, (kind, *shown)


ENDLESS = ("/dashboard/events",)
"""Paths whose answer goes on for as long as its caller listens."""

EVENTS = (b"text/event-stream",)
MAY_SAY: Mapping[str, Sequence[bytes]] = {
    "/metrics": (b"text/plain", b"application/openmetrics-text"),
    "/dashboard": (b"text/html",),
    "/dashboard/login": (b"text/html",),
}
