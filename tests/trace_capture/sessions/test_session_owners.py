"""A key sees and changes the sessions that it made, unless it may see all of them."""

from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gateway_plugins.trace_capture import TraceCapture
from gateway_plugins.trace_capture.http.traces import TraceList
from gateway_plugins.trace_capture.sessions import owners, rewards, sessions
from gateway_plugins.trace_capture.sessions.listing import SessionFilter, SessionList
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateways.capturing import call, capturing, chat
from support.records.databases import memory_database
from support.records.trace_records import Item, Turn, record_of, sink_of_records
from trace_capture.http.test_capture_routes_lists import all_pages

from gateway import Call, Database, Forbidden, Migrations, NotFound, Principal, Reward, hookimpl
from gateway.client import AsyncGatewayClient, GatewayClientError
from gateway.control.routes import ControlRoute
from gateway.control.scoped import ScopedRoute
from gateway.pipeline import authorization
from gateway.storage import Sink
from gateway.storage.sqlite.migrate import migrate
from gateway.testing import GatewayFor, Live

OWN = frozenset({"realtime", "sessions"})
SCOPES = {"maker": OWN, "other": OWN, "auditor": OWN | {"sessions:all"}}

ASKS: dict[tuple[str, str], Any] = {
    ("GET", "/sessions"): None,
    ("GET", "/sessions/{session_id}"): None,
    ("GET", "/sessions/{session_id}/traces"): None,
    ("GET", "/sessions/{session_id}/trajectories"): None,
    ("GET", "/sessions/{session_id}/rewards"): None,
    ("GET", "/traces/{trace_id}"): None,
    ("POST", "/traces/query"): {"session_ids": ["{session_id}"], "cursor": None},
    ("POST", "/trajectories/claim"): {
        "filter": {"session_prefix": "{session_id}", "idle_seconds": 0, "allow_incomplete": True}
    },
    ("POST", "/trajectories/ack"): {"receipts": ["of nobody"]},
    ("POST", "/trajectories/release"): {"receipts": ["of nobody"]},
    ("POST", "/trajectories/extend"): {"receipts": ["of nobody"]},
    ("POST", "/admin/flush"): {},
    ("POST", "/sessions/{session_id}/rewards"): {"value": 2.0, "trace_id": "{trace_id}"},
    ("POST", "/sessions"): {"session_id": "{session_id}", "metadata": {"of": "whoever asks"}},
    ("POST", "/sessions/batch_delete"): {"session_ids": ["{session_id}"]},
    ("DELETE", "/sessions/{session_id}"): None,
}
"""Every request that there is, the destructive ones last."""

SAME = {("GET", "/sessions/batch_delete"), ("DELETE", "/sessions/batch_delete")}
"""About the session of that name, by the handlers of `/sessions/{session_id}`."""


class ByName:
    """A caller's key is the principal's id."""

    @hookimpl
    async def authenticate(self, call: Call) -> Principal | None:
        name = (call.header("authorization") or "").removeprefix("Bearer ")
        return Principal(name, SCOPES[name]) if name in SCOPES else None


def named(live: Live, key: str) -> Live:
    """The gateway, from now on asked with this key."""
    live.client.headers["authorization"] = f"Bearer {key}"
    return live


async def ask(
    live: Live, key: str, which: tuple[str, str], session_id: str = "", trace_id: str = ""
) -> httpx.Response:
    """One of ASKS, about these."""

    def filled(text: str) -> str:
        return text.replace("{session_id}", session_id).replace("{trace_id}", trace_id)

    body = filled(msgspec.json.encode(ASKS[which]).decode()) if which[0] == "POST" else None
    return await named(live, key).client.request(which[0], filled(which[1]), content=body)


async def get(live: Live, key: str, path: str) -> Any:
    answer = await named(live, key).client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def loose_call(live: Live, key: str) -> None:
    """A call without a session."""
    answer = await named(live, key).client.post("/v1/chat/completions", json=chat())
    assert answer.status_code == 200, answer.text


async def everything(live: Live) -> list[Any]:
    """All that there is, as one sees it who may."""
    found = await get(live, "auditor", "/sessions")
    traces = await live.client.post("/traces/query", json={})
    rewards_ = [
        await get(live, "auditor", f"/sessions/{one['session_id']}/rewards") for one in found
    ]
    return [found, traces.json(), rewards_]


async def shared(gateway_for: GatewayFor, folder: Path) -> tuple[Live, str]:
    """A gateway with sessions of `maker`'s, made and called, and a trace of `made`."""
    live = named(await capturing(gateway_for, folder, ByName), "maker")
    await live.client.post("/sessions", json={"session_id": "made", "metadata": {"secret": 1}})
    for session_id in ("made", "called"):
        await call(live, session_id)
        await live.client.post(f"/sessions/{session_id}/rewards", json={"value": 1.0})
    await loose_call(live, "maker")
    [trace] = await get(live, "maker", "/sessions/made/traces")
    return live, trace["trace_id"]


def test_all_sessions_scope_is_known_to_the_core() -> None:
    assert owners.ALL_SESSIONS == authorization.ALL_SESSIONS
    assert authorization.ALL_SESSIONS in authorization.SCOPES


async def test_owner_tests_cover_every_session_route(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, ByName)
    found = {
        (method, route.path)
        for route in live.gateway.routes
        if isinstance(route, ControlRoute | ScopedRoute) and route.scope == "sessions"
        for method in getattr(route, "methods", ["any"])
    }
    assert found == set(ASKS) | SAME


async def test_session_routes_treat_another_key_s_session_as_unknown(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live, trace_id = await shared(gateway_for, tmp_path)
    before = await everything(live)
    for which in ASKS:
        if which == ("POST", "/sessions"):
            continue
        for session_id in ("made", "called"):
            unknown = await ask(live, "other", which, "no-such", "no-such")
            theirs = await ask(live, "other", which, session_id, trace_id)
            same = unknown.text.replace("no-such", session_id)
            assert (theirs.status_code, theirs.text) == (unknown.status_code, same), which
    assert await everything(live) == before


async def test_session_routes_reject_a_taken_id_without_naming_its_owner(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live, _ = await shared(gateway_for, tmp_path)
    before = await everything(live)
    refused = await ask(live, "other", ("POST", "/sessions"), "made")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (403, "permission_denied")
    assert error["param"] == "session_id"
    assert "maker" not in refused.text
    assert await everything(live) == before


@pytest.mark.parametrize("key", ["maker", "auditor"])
async def test_session_routes_let_the_owner_and_sessions_all_read_and_change(
    gateway_for: GatewayFor, tmp_path: Path, key: str
) -> None:
    live, trace_id = await shared(gateway_for, tmp_path)
    for which in ASKS:
        if which[0] == "GET" or which[1] == "/traces/query":
            answer = await ask(live, key, which, "made", trace_id)
            assert answer.status_code == 200
            assert "made" in answer.text or which[1].endswith("rewards"), which
    assert (
        await ask(live, key, ("POST", "/sessions/{session_id}/rewards"), "made", trace_id)
    ).json()
    assert len(await get(live, key, "/sessions/made/rewards")) == 2
    assert (await ask(live, key, ("POST", "/sessions"), "made")).status_code == 200
    changed = await get(live, "maker", "/sessions/made")
    assert changed["metadata"] == {"of": "whoever asks"}, "and it is its maker's still"
    for which, session_id in zip(list(ASKS)[-2:], ("made", "called"), strict=True):
        assert (await ask(live, key, which, session_id)).json() == {"deleted": 1}
    assert await get(live, "auditor", "/sessions") == []


async def test_call_into_another_key_s_session_is_visible_to_the_owner_only(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live, _ = await shared(gateway_for, tmp_path)
    await call(named(live, "other"), "made")
    first, second = await get(live, "maker", "/sessions/made/traces")
    assert (first["principal"], second["principal"]) == ("maker", "other")
    assert await get(live, "maker", f"/traces/{second['trace_id']}") == second
    assert (await named(live, "other").client.get(f"/traces/{second['trace_id']}")).is_client_error
    assert await get(live, "other", "/sessions/made/traces") == []
    assert (await live.client.post("/traces/query", json={})).json() == []


async def test_trace_without_a_session_belongs_to_its_caller(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live, _ = await shared(gateway_for, tmp_path)
    await loose_call(live, "other")
    [mine] = (await live.client.post("/traces/query", json={})).json()
    assert (mine["session_id"], mine["principal"]) == ("", "other")
    assert await get(live, "other", f"/traces/{mine['trace_id']}") == mine
    assert (await named(live, "maker").client.get(f"/traces/{mine['trace_id']}")).status_code == 404
    assert len((await live.client.post("/traces/query", json={})).json()) == 3
    assert len((await everything(live))[1]) == 4


async def test_sessions_created_without_keys_have_no_owner(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    first = await capturing(gateway_for, tmp_path)
    await call(first, "old")
    [trace] = (await first.client.get("/sessions/old/traces")).json()
    await first.gateway.__aexit__(None, None, None)
    live = await capturing(gateway_for, tmp_path, ByName)
    await call(named(live, "maker"), "old")
    for which in ASKS:
        answer = await ask(live, "maker", which, "old", trace["trace_id"])
        assert answer.status_code in (200, 403, 404)
        assert trace["trace_id"] not in answer.text, which
    assert await get(live, "maker", "/sessions") == []
    assert (await get(live, "auditor", "/sessions/old"))["trace_count"] == 2


async def test_lost_calls_are_reported_to_the_owner_or_first_caller_of_a_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live, _ = await shared(gateway_for, tmp_path)
    losses = live.plugin(TraceCapture).sink.losses
    for session_id in ("gone", "made"):
        losses.add(session_id, "other")
        losses.add(session_id, "maker")
    for _ in range(2):
        assert (await get(live, "other", "/sessions/gone"))["lost"] == 2
        assert (await get(live, "auditor", "/sessions/gone"))["lost"] == 2
        assert (await get(live, "maker", "/sessions/made"))["lost"] == 2
        assert (await named(live, "maker").client.get("/sessions/gone")).status_code == 404
        assert (await named(live, "other").client.get("/sessions/made")).status_code == 404
        await call(named(live, "maker"), "called")  # they are counted in the file with it
        assert losses.count("gone") == losses.count("made") == 0


async def test_client_sees_only_the_sessions_of_its_key(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, ByName)
    clients = {key: AsyncGatewayClient(live.url, api_key=key) for key in SCOPES}
    maker, other = clients["maker"], clients["other"]
    assert await maker.create_session("a", {"n": 1}) == "a"
    await call(named(live, "other"), "a")
    [trace] = await maker.get_session_traces("a")
    assert await clients["auditor"].get_trace(trace.trace_id) == trace
    assert await other.query_traces() == await other.get_session_traces("a") == []
    for refused, status in ((other.create_session("a"), 403), (other.trajectories("a"), 404)):
        with pytest.raises(GatewayClientError) as raised:
            await refused
        assert raised.value.status == status
    assert await other.delete_sessions(["a"]) == 0
    assert await maker.delete_session("a") == 1
    for client in clients.values():
        await client.close()


# without a gateway


def called(db: Database, session_id: str | None, principal: str | None) -> str:
    """Stores a call; gives the trace's id."""
    record = record_of(Turn([1], [[2]], [], session_id))
    record.head.principal = principal
    sink: Sink = sink_of_records()
    sink.write(db, [sink.prepare(db, Item(record))])
    return record.trace_id


def test_older_file_is_readable_before_and_after_the_owner_migration() -> None:
    before = Migrations(MIGRATIONS.name, MIGRATIONS.steps[:1])
    with closing(memory_database([before])) as db:
        db.execute("INSERT INTO sessions (session_id, created_at, last_at) VALUES ('old', 1, 1)")
        assert sessions.get(db, "old") is not None
        assert list(queries.select(db, queries.TraceFilter(session_ids=("old",)))) == []
        migrate(db, [MIGRATIONS])
        assert sessions.get(db, "old") is not None
        assert sessions.get(db, "old", "maker") is None
        called(db, "old", "maker")
        assert list(queries.rows(db, queries.TraceFilter(owner="maker"))) == []


def test_session_condition_matches_whole_ids_only() -> None:
    names = ("a", 'b"\\', "ä")
    with closing(memory_database([MIGRATIONS])) as db:
        for name in names:
            sessions.put(db, name, now=1.0)
        for wanted, expected in ((("a\0b", *names[1:]), names[1:]), (("a\0b",), ()), ((), ())):
            where, params = owners.sessions_condition(wanted, None)
            found = db.select(f"SELECT session_id FROM sessions WHERE {where} ORDER BY 1", params)
            assert tuple(name for (name,) in found) == expected


class Model:
    """Whose everything is, kept in the simplest way there is."""

    def __init__(self) -> None:
        self.sessions: dict[str, str | None] = {}
        self.traces: list[tuple[str, str | None, str | None]] = []

    def owner(self, session_id: str | None, caller: str | None) -> str | None:
        return caller if session_id is None else self.sessions[session_id]

    def seen(self, key: str) -> list[str]:
        return [
            trace_id
            for trace_id, session_id, caller in self.traces
            if self.owner(session_id, caller) == key
        ]


ids = st.sampled_from("abc")
keys = st.sampled_from(["maker", "other"])
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "call", "call", "call", "delete", "reward"]), ids | st.none(), keys
    ),
    max_size=15,
)


def step(db: Database, model: Model, what: str, session_id: str, key: str) -> None:
    """By a key that sees only its own."""
    mine = model.sessions.get(session_id) == key
    if what == "put" and session_id in model.sessions and not mine:
        with pytest.raises(Forbidden):
            sessions.put(db, session_id, now=1.0, creator=key, owner=key, metadata={"by": key})
    elif what == "put":
        sessions.put(db, session_id, now=1.0, creator=key, owner=key, metadata={"by": key})
        model.sessions[session_id] = key
    elif what == "delete":
        kept = [one for one in model.traces if not mine or one[1] != session_id]
        deleted = queries.delete_sessions(db, [session_id], key)
        assert deleted == len(model.traces) - len(kept)
        model.traces = kept
        if mine:
            del model.sessions[session_id]
    elif mine:
        rewards.add(db, session_id, Reward(value=1.0), key)
    else:
        with pytest.raises(NotFound):
            rewards.add(db, session_id, Reward(value=1.0), key)


@settings(max_examples=40)
@given(steps, st.integers(1, 3))
def test_each_key_sees_exactly_its_own_sessions_and_traces(
    done: list[tuple[str, str | None, str]], limit: int
) -> None:
    model = Model()
    with closing(memory_database([MIGRATIONS])) as db:
        for what, session_id, key in done:
            if what == "call" or session_id is None:
                if session_id is not None:
                    model.sessions.setdefault(session_id, key)
                model.traces.append((called(db, session_id, key), session_id, key))
            else:
                step(db, model, what, session_id, key)
        for key in ("maker", "other"):
            check(db, model, key, limit)


def check(db: Database, model: Model, key: str, limit: int) -> None:
    """All lists, in pages of `limit`, and each trace by itself."""
    mine = sorted(one for one, owner in model.sessions.items() if owner == key)
    listed = all_pages(db, SessionList(SessionFilter(owner=key)), limit)
    assert sorted(one["session_id"] for one in listed) == mine
    seen = model.seen(key)
    for named_ in (None, ("a",), ("a", "b"), ()):
        listing = TraceList(queries.TraceFilter(session_ids=named_, owner=key))
        assert [one["trace_id"] for one in all_pages(db, listing, limit)] == [
            one
            for one, session_id, _ in model.traces
            if one in seen and (named_ is None or session_id in named_)
        ]
    for trace_id, *_ in model.traces:
        assert (queries.get(db, trace_id, key) is not None) == (trace_id in seen)
        if trace_id not in seen:
            with pytest.raises(LookupError):
                queries.last_of_page(db, queries.TraceFilter(owner=key), after=trace_id, limit=1)
