"""Lists in pages: by cursor, by limit, and without end."""

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from gateway_plugins.trace_capture.http import paging
from gateway_plugins.trace_capture.http.paging import Listing, Page, read_page
from gateway_plugins.trace_capture.sessions import rewards, sessions
from gateway_plugins.trace_capture.sessions.listing import SessionFilter, SessionList
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from hypothesis import given
from hypothesis import strategies as st
from support.gateways.capturing import call, capturing
from support.records.databases import memory_database

from gateway import Database, Reward
from gateway.testing import GatewayFor, Live


async def follow(live: Live, path: str, limit: int) -> list[list[Any]]:
    """All pages of a list, as a browser goes through them."""
    pages = []
    url: str | None = f"{path}?limit={limit}"
    while url is not None:
        answer = await live.client.get(url)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
        assert ("x-next-cursor" in answer.headers) == ("next" in answer.links)
        url = answer.links.get("next", {}).get("url")
    return pages


async def test_trace_list_returns_a_long_session_whole_and_in_pages(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "PAGE_ROWS", 7)
    live = await capturing(gateway_for, tmp_path)
    await asyncio.gather(*(call(live, "a", content=str(number)) for number in range(30)))
    await call(live, "b")
    answer = await live.client.get("/sessions/a/traces")
    traces = answer.json()
    assert len({trace["trace_id"] for trace in traces}) == 30
    assert "x-next-cursor" not in answer.headers
    for limit in (1, 7, 10, 29, 30, 31):
        pages = await follow(live, "/sessions/a/traces", limit)
        assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
        assert [one for page in pages for one in page] == traces
    assert (await live.client.get("/sessions/a/traces?limit=0")).json() == []
    since = traces[20]["timestamp"]
    later = [trace for trace in traces if trace["timestamp"] >= since]
    path = f"/sessions/a/traces?since={since}"
    assert (await live.client.get(path)).json() == later
    first = await live.client.post("/traces/query", json={"session_ids": ["a"], "limit": 25})
    cursor = first.headers["x-next-cursor"]
    rest = await live.client.post("/traces/query", json={"session_ids": ["a"], "cursor": cursor})
    assert first.json() + rest.json() == traces


async def test_session_list_returns_pages(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await capturing(gateway_for, tmp_path)
    ids = [f"s/{number},ä" for number in range(12)]
    for session_id in ids:
        await live.client.post("/sessions", json={"session_id": session_id})
    pages = await follow(live, "/sessions", 5)
    assert [[one["session_id"] for one in page] for page in pages] == [ids[:5], ids[5:10], ids[10:]]
    since = pages[1][0]["created_at"]
    assert (await live.client.get(f"/sessions?since={since}")).json() == [
        one for page in pages[1:] for one in page
    ]


async def test_trace_list_breaks_off_if_its_cursor_is_deleted_meanwhile(
    gateway_for: GatewayFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "PAGE_ROWS", 2)
    live = await capturing(gateway_for, tmp_path)
    for content in "abcde":
        await call(live, "a", content=content)
    read = live.gateway.storage.read

    async def and_delete(query: Any) -> Any:
        found = await read(query)
        if isinstance(found, Page):
            await live.gateway.storage.write(lambda db: db.execute("DELETE FROM traces"))
        return found

    monkeypatch.setattr(live.gateway.storage, "read", and_delete)
    with pytest.raises(httpx.RemoteProtocolError):
        await live.client.get("/sessions/a/traces")


# without a gateway


def all_pages(db: Database, listing: Listing, limit: int) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        following = listing.last_of_page(db, after, limit)
        page = read_page(listing, after, limit, db)
        found += msgspec.json.decode(b"[%b]" % page.data)
        assert page.count <= limit
        if following is None:
            return found
        assert following == page.after
        after = following


text = st.text(st.characters(exclude_categories=["Cs"]))
times = st.sampled_from([0.0, 1.5, 2.0, 1e9, 1e9 + 1e-6])


@given(
    st.dictionaries(text, times, max_size=8),
    st.none() | times,
    st.integers(1, 9),
)
def test_session_list_pages_cover_all_sessions_in_order(
    created: dict[str, float], since: float | None, limit: int
) -> None:
    with closing(memory_database([MIGRATIONS])) as db:
        for session_id, now in created.items():
            sessions.put(db, session_id, now=now)
        expected = [
            session_id
            for now, session_id in sorted((n, s.encode()) for s, n in created.items())
            if now >= (since or 0)
        ]
        found = all_pages(db, SessionList(SessionFilter(since=since)), limit)
        assert [one["session_id"].encode() for one in found] == expected


@given(st.lists(times, max_size=8), st.none() | times, st.integers(1, 9))
def test_reward_list_pages_cover_all_rewards_in_order(
    given_at: list[float], since: float | None, limit: int
) -> None:
    with closing(memory_database([MIGRATIONS])) as db:
        for session_id in ("a", "b"):
            sessions.put(db, session_id, now=0)
            for number, timestamp in enumerate(given_at):
                rewards.add(db, session_id, Reward(value=number, timestamp=timestamp))
        expected = [n for n, at in enumerate(given_at) if at >= (since or 0)]
        found = all_pages(db, rewards.RewardList("a", since), limit)
        assert [one["value"] for one in found] == expected


def test_read_page_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE_BYTES", 1_000)
    with closing(memory_database([MIGRATIONS])) as db:
        for number in range(10):
            sessions.put(db, str(number), now=number, metadata={"x": "y" * 400})
        page = read_page(SessionList(SessionFilter()), None, None, db)
        assert (page.count, page.more) == (2, True)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=5,
)


@given(st.dictionaries(text, json_values))
def test_session_metadata_and_settings_round_trip(metadata: dict[str, Any]) -> None:
    with closing(memory_database([MIGRATIONS])) as db:
        sessions.put(db, "a", now=1.0, metadata=metadata)
        found = sessions.get(db, "a")
        assert found is not None
        assert found.metadata == metadata
        assert sessions.setting(db, "x") is None
        sessions.put_setting(db, "x", metadata)
        assert sessions.setting(db, "x") == metadata
