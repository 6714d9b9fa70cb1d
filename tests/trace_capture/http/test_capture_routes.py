"""Sessions, traces and rewards as trainers ask for them, over HTTP."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways.capturing import CAPTURE, call, capturing, chat
from support.plugins.hook_probes import Keys

from gateway import Config, Gateway
from gateway.config import StorageSettings
from gateway.simulator import Simulator
from gateway.testing import GatewayFor, Live, entry, live


async def get(live: Live, path: str, **query: object) -> Any:
    answer = await live.client.get(path, params={k: str(v) for k, v in query.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def post(live: Live, path: str, body: object) -> Any:
    answer = await live.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def test_session_gets_no_id_that_its_calls_could_not_have(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    async with Simulator() as engine:
        live = await gateway_for(
            entry("sessions", max_length=8),
            CAPTURE,
            workers=[engine.url],
            storage=StorageSettings(path=str(tmp_path / "g.db")),
        )
        answer = await live.client.post("/sessions", json={})
        assert error_of(answer) == (400, "invalid_session_id", "session_id")
        assert await get(live, "/sessions") == []
        await post(live, "/sessions", {"session_id": "12345678"})


async def test_session_routes_create_and_return_a_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    body = {"session_id": "a", "metadata": {"task": 7}, "sampling_params": {"temperature": 0}}
    assert await post(live, "/sessions", body) == {"session_id": "a", "url": "/sessions/a/v1"}
    found = await get(live, "/sessions/a")
    assert found["metadata"] == {"task": 7}
    assert found["sampling_params"] == {"temperature": 0}
    assert found["trace_count"] == 0
    assert await get(live, "/sessions") == [found]
    new = await post(live, "/sessions", {})
    assert new["url"] == f"/sessions/{new['session_id']}/v1"
    assert (await get(live, f"/sessions/{new['session_id']}"))["metadata"] == {}


async def test_session_routes_replace_given_fields_and_keep_the_rest(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await post(live, "/sessions", {"session_id": "a", "metadata": {"n": 1, "m": 1}})
    first = await get(live, "/sessions/a")
    await post(live, "/sessions", {"session_id": "a", "sampling_params": {"top_p": 0.5}})
    await post(live, "/sessions", {"session_id": "a", "metadata": {"n": 2}})
    await post(live, "/sessions", {"session_id": "a"})
    again = await get(live, "/sessions/a")
    assert again == {**first, "metadata": {"n": 2}, "sampling_params": {"top_p": 0.5}}


ODD_IDS = ["harbor/hello-world:0", "a/traces", "a/v1/b", "/x", "v1", "ä b?c#d%2F", "traces"]


@pytest.mark.parametrize("session_id", ODD_IDS)
async def test_session_url_leads_to_its_session_for_odd_ids(
    gateway_for: GatewayFor, tmp_path: Path, session_id: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    url = (await post(live, "/sessions", {"session_id": session_id}))["url"]
    answer = await live.client.post(f"{url}/chat/completions", json=chat())
    assert answer.status_code == 200
    [session] = await get(live, "/sessions")
    assert (session["session_id"], session["trace_count"]) == (session_id, 1)


POSSIBLE = [
    *ODD_IDS,
    "x" * 256,
    "batch_delete",
    "a/../b",
    "a/./b:0",
    "/:",
    "a//b:0",
    "a/v1/b:0",
    "inference",
    "%",
    " ",
    "...",
    "\U0001f600",
]
IMPOSSIBLE = [".", "..", "x" * 257, "a\nb", "\0", "\u2028", "\x7f"]


def random_ids(count: int) -> list[str]:
    """Of characters that mean something in paths, and of a few that cannot be in an id."""
    draw = random.Random(7)
    return ["".join(draw.choices("/v1:.%#?a\n", k=draw.randint(1, 6))) for _ in range(count)]


async def test_session_ids_that_post_accepts_are_those_that_urls_accept(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    accepted = {}
    for session_id in dict.fromkeys([*POSSIBLE, *IMPOSSIBLE, *random_ids(60)]):
        made = await live.client.post("/sessions", json={"session_id": session_id})
        bare = "/sessions/" + "".join(f"%{byte:02X}" for byte in session_id.encode())
        called = await raw(live, "GET", bare + "/v1/models")
        assert (made.status_code, called.status_code) in ((200, 200), (400, 400)), session_id
        accepted[session_id] = made.status_code == 200
        if accepted[session_id]:
            found = await raw(live, "GET", bare)
            assert found.json()["session_id"] == session_id
            sent = await live.client.get(f"{made.json()['url']}/models")
            assert sent.status_code == 200
            assert (await raw(live, "DELETE", bare)).json() == {"deleted": 0}
            assert (await raw(live, "GET", bare)).status_code == 404
    assert {one: accepted[one] for one in POSSIBLE} == dict.fromkeys(POSSIBLE, True)
    assert {one: accepted[one] for one in IMPOSSIBLE} == dict.fromkeys(IMPOSSIBLE, False)


async def raw(live: Live, method: str, path: str) -> httpx.Response:
    """Send the path as it is written."""
    url = httpx.URL(live.url).copy_with(raw_path=path.encode())
    return await live.client.request(method, url)


@pytest.mark.parametrize("path", ["/a/b", "/a/b/traces", "/a/b/trajectories", "/a/b/rewards"])
async def test_session_routes_refuse_a_part_with_slashes_that_is_no_id(
    gateway_for: GatewayFor, tmp_path: Path, path: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    assert (await live.client.post("/sessions", json={"session_id": "a/b"})).status_code == 200
    answer = await live.client.get(f"/sessions{path}")
    assert error_of(answer)[:2] == (404, "not_found")
    assert "%2F" in answer.json()["error"]["message"]
    for method in ("POST", "DELETE", "PUT"):
        assert (await raw(live, method, f"/sessions{path}")).status_code == 404
    assert (await raw(live, "GET", f"/sessions{path.replace('a/b', 'a%2Fb')}")).status_code == 200


async def test_session_routes_accept_unencoded_slashes_and_colons(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    session = "/sessions/harbor/hello-world:0"
    await call(live, "harbor/hello-world:0")
    [trace] = await get(live, f"{session}/traces")
    assert trace["session_id"] == "harbor/hello-world:0"
    assert (await get(live, session))["trace_count"] == 1
    assert len((await get(live, f"{session}/trajectories"))["trajectories"]) == 1
    assert await get(live, f"{session}/rewards") == []
    assert (await live.client.delete(session)).json() == {"deleted": 1}


async def test_sessions_and_trace_capture_share_the_paths_below_sessions(
    gateway_for: GatewayFor, simulator: Simulator, tmp_path: Path
) -> None:
    live = await gateway_for(CAPTURE, storage=StorageSettings(path=str(tmp_path / "alone.db")))
    for path in ("/sessions/a/v1/models", "/sessions/", "/sessions/a/b"):
        assert error_of(await live.client.get(path))[:2] == (404, "not_found")
    both = await capturing(gateway_for, tmp_path)
    assert (await both.client.get("/sessions/a/v1/models")).status_code == 200
    assert error_of(await both.client.get("/sessions/a/v1"))[:2] == (404, "not_found")
    assert (await both.client.delete("/sessions/a/traces")).status_code == 405
    # Under /v1/ it is the worker's to say what there is.
    await both.client.get("/sessions/a/v1/traces")
    assert simulator.stats.accepted > 0


async def test_session_routes_return_404_or_nothing_for_unknown_ids(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for path in (
        "/sessions/a",
        "/sessions/a/trajectories",
        "/sessions/a/rewards",
        "/traces/a",
    ):
        assert error_of(await live.client.get(path))[:2] == (404, "not_found")
    assert await get(live, "/sessions/a/traces") == []
    assert (await live.client.delete("/sessions/a")).json() == {"deleted": 0}
    assert await post(live, "/sessions/batch_delete", {"session_ids": ["a", "b"]}) == {"deleted": 0}
    assert await post(live, "/traces/query", {"session_ids": ["a"]}) == []


async def test_call_creates_its_session_and_a_trace_that_queries_find(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a")
    session = await get(live, "/sessions/a")
    assert (session["trace_count"], session["incomplete"]) == (1, 0)
    [trace] = await get(live, "/sessions/a/traces")
    assert trace == await get(live, f"/traces/{trace['trace_id']}")
    assert await post(live, "/traces/query", {}) == [trace]
    assert await post(live, "/traces/query", {"session_ids": []}) == []
    assert await post(live, "/traces/query", {"model": "other"}) == []
    assert await post(live, "/traces/query", {"verdict": "INCOMPLETE"}) == []
    assert await post(live, "/traces/query", {"until": trace["timestamp"]}) == []
    assert await post(live, "/traces/query", {"since": trace["timestamp"]}) == [trace]


async def test_session_deletion_removes_traces_rewards_and_lineage(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for session_id in ("a", "b", "c"):
        await call(live, session_id)
        await post(live, f"/sessions/{session_id}/rewards", {"value": 1})
    ids = {"session_ids": ["a", "c", "no such"]}
    assert await post(live, "/sessions/batch_delete", ids) == {"deleted": 2}
    assert [session["session_id"] for session in await get(live, "/sessions")] == ["b"]
    assert await get(live, "/sessions/a/traces") == []
    assert error_of(await live.client.get("/sessions/a/rewards"))[0] == 404
    await call(live, "a")
    [trace] = await get(live, "/sessions/a/traces")
    assert (trace["parent_id"], trace["retry_of"]) == (None, None), "what was before is gone"


# rewards


async def test_rewards_route_keeps_late_rewards_in_order(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await call(live, "a")
    [trace] = await get(live, "/sessions/a/traces")
    given = [
        {"value": 1, "source": "tests", "trace_id": trace["trace_id"]},
        {"value": -0.5, "source": "judge"},
        {"value": 0.0},
    ]
    answers = [await post(live, "/sessions/a/rewards", reward) for reward in given]
    assert [answer["value"] for answer in answers] == [1.0, -0.5, 0.0]
    assert await get(live, "/sessions/a/rewards") == answers
    assert (await get(live, "/sessions/a/trajectories"))["rewards"] == answers


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b'{"value": "1"}', 400, "value"),
        (b'{"value": true}', 400, "value"),
        (b'{"value": 1e999}', 400, "value"),
        (b'{"value": null}', 400, "value"),
        (b'{"source": "x"}', 400, "value"),
        (b'{"value": 1, "trace_id": "of another"}', 404, "trace_id"),
        (b'{"value": NaN}', 400, None),
    ],
)
async def test_rewards_route_rejects_an_invalid_reward(
    gateway_for: GatewayFor, tmp_path: Path, body: bytes, status: int, param: str | None
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await post(live, "/sessions", {"session_id": "a"})
    refused = await live.client.post("/sessions/a/rewards", content=body)
    assert (error_of(refused)[0], error_of(refused)[2]) == (status, param)
    assert await get(live, "/sessions/a/rewards") == []


async def test_rewards_route_rejects_a_reward_for_an_unknown_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    refused = await live.client.post("/sessions/a/rewards", json={"value": 1})
    assert error_of(refused)[:2] == (404, "not_found")


# what is refused


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/sessions", {"session_id": 7}, "session_id"),
        ("/sessions", {"session_id": "a\u0000b"}, "session_id"),
        ("/sessions", {"session_id": "x" * 5000}, "session_id"),
        ("/sessions", {"metadata": []}, "metadata"),
        ("/sessions", {"sampling_parms": {}}, "sampling_parms"),
        ("/sessions/batch_delete", {}, "session_ids"),
        ("/sessions/batch_delete", {"session_ids": "a"}, "session_ids"),
        ("/sessions/batch_delete", {"session_ids": [1]}, "session_ids[0]"),
        ("/traces/query", {"session_ids": ["a"] * 10_001}, "session_ids"),
        ("/traces/query", {"limit": -1}, "limit"),
        ("/traces/query", {"since": "yesterday"}, "since"),
        ("/traces/query", {"verdict": "GOOD"}, "verdict"),
        ("/traces/query", {"cursor": "no such"}, "cursor"),
        ("/admin/weight_version", {}, "weight_version"),
        ("/admin/weight_version", {"weight_version": "7"}, "weight_version"),
        ("/admin/weight_version", {"weight_version": True}, "weight_version"),
        ("/admin/weight_version", {"weight_version": 1 << 64}, "weight_version"),
    ],
)
async def test_fault_8_capture_routes_name_the_invalid_field(
    gateway_for: GatewayFor, tmp_path: Path, path: str, body: object, param: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    status, _, named = error_of(await live.client.post(path, json=body))
    assert (status, named) == (400, param)
    assert error_of(await live.client.post(path, content=b"{"))[:2] == (400, "invalid_json")


@pytest.mark.parametrize("path", ["/sessions", "/sessions/a/traces", "/sessions/a/rewards"])
@pytest.mark.parametrize(
    "query",
    ["limit=-1", "limit=x", "limit=99999999999999999999", "since=x", "since=nan", "since=inf"],
)
async def test_capture_routes_reject_invalid_query_parameters(
    gateway_for: GatewayFor, tmp_path: Path, path: str, query: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    status, _, named = error_of(await live.client.get(f"{path}?{query}"))
    assert (status, named) == (400, query.partition("=")[0])


@pytest.mark.parametrize("path", ["/sessions", "/sessions/a/traces", "/sessions/a/rewards"])
async def test_capture_routes_reject_an_unknown_cursor(
    gateway_for: GatewayFor, tmp_path: Path, path: str
) -> None:
    live = await capturing(gateway_for, tmp_path)
    await post(live, "/sessions", {"session_id": "a"})
    assert error_of(await live.client.get(f"{path}?cursor=x"))[::2] == (400, "cursor")
    assert error_of(await live.client.get(f"{path}?cursor=x&limit=2"))[::2] == (400, "cursor")


async def test_fault_1_capture_routes_require_a_key(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path, entry(Keys, key="a"))
    for method, path in (
        ("GET", "/sessions"),
        ("GET", "/sessions/a/traces"),
        ("DELETE", "/sessions/a"),
        ("POST", "/admin/weight_version"),
    ):
        refused = await live.client.request(method, path)
        assert error_of(refused)[:2] == (401, "invalid_api_key")
    live.client.headers["authorization"] = "a"
    assert await get(live, "/sessions") == []


# settings and restarts


async def test_weight_version_applies_to_later_calls(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    assert await get(live, "/admin/weight_version") == {"weight_version": None}
    await call(live, "a")
    for version in (7, 8):
        given = {"weight_version": version}
        assert await post(live, "/admin/weight_version", given) == given
        assert await get(live, "/admin/weight_version") == given
        await call(live, "a")
    versions = [trace["weight_version"] for trace in await get(live, "/sessions/a/traces")]
    assert versions == [None, 7, 8]


async def test_fault_9_sessions_rewards_and_settings_survive_a_restart(
    simulator: Simulator, tmp_path: Path, gateway_for: GatewayFor
) -> None:
    first = await capturing(gateway_for, tmp_path)
    config: Config = first.gateway.config
    given = {"session_id": "a", "metadata": {"x": [1]}, "sampling_params": {"max_tokens": 2}}
    await post(first, "/sessions", given)
    await call(first, "a")
    await post(first, "/sessions/a/rewards", {"value": 1})
    await post(first, "/admin/weight_version", {"weight_version": 3})
    before = [await get(first, path) for path in ("/sessions", "/sessions/a/rewards")]
    await first.gateway.__aexit__(None, None, None)
    async with live(Gateway(config)) as second:
        after = [await get(second, path) for path in ("/sessions", "/sessions/a/rewards")]
        assert after == before
        assert await get(second, "/admin/weight_version") == {"weight_version": 3}
        answer = await call(second, "a", max_tokens=9)
        assert answer.json()["usage"]["completion_tokens"] == 2
        assert [one["weight_version"] for one in await get(second, "/sessions/a/traces")][1:] == [3]


async def test_fault_2_trace_is_readable_as_soon_as_the_response_ends(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)

    async def turns(session_id: str) -> None:
        for turn in range(1, 4):
            await call(live, session_id, stream=turn % 2 == 0)
            assert len(await get(live, f"/sessions/{session_id}/traces")) == turn
            assert (await get(live, f"/sessions/{session_id}"))["trace_count"] == turn

    await asyncio.gather(*(turns(f"s{number}") for number in range(8)))
    assert await post(live, "/admin/flush", {}) == {"status": "flushed"}
