"""Whatever is sent to the routes of sessions and traces, none of them breaks."""

import asyncio
import json
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateways.capturing import CAPTURE

from gateway import Gateway
from gateway.config import Config, PluginEntry, StorageSettings

Request = tuple[str, bytes, bytes]

FIELDS = [
    "session_id",
    "session_ids",
    "metadata",
    "sampling_params",
    "since",
    "until",
    "limit",
    "cursor",
    "verdict",
    "model",
    "value",
    "source",
    "trace_id",
    "weight_version",
    "url",
    "weight",
    "api_path",
    "headers",
    "n",
    "lease",
    "order",
    "filter",
    "drop_stale",
    "receipts",
]
POSTS = [
    "/sessions",
    "/sessions/batch_delete",
    "/sessions/a/rewards",
    "/traces/query",
    "/trajectories/claim",
    "/trajectories/ack",
    "/trajectories/extend",
    "/admin/weight_version",
    "/admin/workers",
]

text = st.text(st.characters()) | st.sampled_from(["a", "COMPLETE", "http://h:1/v1", "1,a"])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
bodies = st.binary(max_size=20) | st.dictionaries(st.sampled_from(FIELDS), values, max_size=4).map(
    lambda body: json.dumps(body).encode()
)
posts = st.tuples(st.just("POST"), st.sampled_from(POSTS).map(str.encode), bodies)
pieces = st.sampled_from(["/", "v1", "a", "traces", "rewards", "trajectories", "%2F", "%00", "%ff"])
odd_paths = st.lists(pieces, max_size=6).map("".join)
paths = st.sampled_from(["", "/a", "/a/traces", "/a/rewards", "/a/trajectories"]) | odd_paths
given_words = st.sampled_from(["", "1", "0,a", "-1", "nan", "x", "%ff", "9" * 30, "1e5"])
queries = st.dictionaries(st.sampled_from(["since", "limit", "cursor"]), given_words, max_size=2)
targets = st.builds(
    lambda path, query: f"/sessions{path}?{'&'.join(map('='.join, query.items()))}".encode(),
    paths,
    queries,
)
gets = st.tuples(st.sampled_from(["GET", "GET", "GET", "DELETE", "PUT"]), targets, st.just(b""))


async def statuses(requests: list[Request]) -> list[tuple[Request, int]]:
    """What a fresh gateway answers to each, one after the other."""
    config = Config(
        plugins=(PluginEntry(name="sessions"), PluginEntry(name=CAPTURE)),
        storage=StorageSettings(path=":memory:"),
    )
    async with Gateway(config) as gateway:
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            found = []
            for method, target, body in requests:
                url = client.base_url.copy_with(raw_path=target)
                answer = await client.request(method, url, content=body)
                found.append(((method, target, body), answer.status_code))
                if answer.status_code >= 400:
                    assert answer.json()["error"]["message"]
            return found


@settings(max_examples=12)
@given(st.lists(posts | gets | gets, min_size=40, max_size=80))
def test_capture_routes_never_fail_on_any_request(requests: list[Request]) -> None:
    first: Request = ("POST", b"/sessions", b'{"session_id": "a"}')
    found = asyncio.run(statuses([first, *requests]))
    no_worker = 503  # of calls below a session
    assert {status for _, status in found} <= {200, 400, 404, 405, no_worker}, found
    broken = [request for request, status in found if status == 503 and b"/v1/" not in request[1]]
    assert broken == []
