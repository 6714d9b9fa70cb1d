"""Searches of sessions: exact, in pages, and answered by an index."""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from gateway_plugins.trace_capture.sessions.listing import Order, SessionFilter, SessionList
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateways.capturing import call, capturing
from support.records.databases import memory_database
from support.records.facts import HOURS, calls, fact_record
from support.records.trace_records import File
from trace_capture.http.test_capture_routes_lists import all_pages

from gateway import Trace
from gateway.testing import GatewayFor

filters = st.builds(
    SessionFilter,
    since=st.none() | st.sampled_from(HOURS),
    text=st.none() | st.sampled_from(["", "a", "b", "%", "_", "!", "A%"]),
    calls_since=st.none() | st.sampled_from(HOURS),
    calls_until=st.none() | st.sampled_from(HOURS),
    model=st.none() | st.sampled_from(["m", "n", "o"]),
    worker=st.none() | st.sampled_from(["w", "v", ""]),
    weight_version=st.none() | st.sampled_from(["1", "", "x" * 200]),
    verdict=st.none() | st.sampled_from(["COMPLETE", "INCOMPLETE"]),
)


def fits(wanted: SessionFilter, trace: Trace) -> bool:
    """Whether a call has all that a filter asks of one."""
    version = "" if trace.weight_version is None else str(trace.weight_version)[:200]
    return (
        (wanted.calls_since is None or trace.timestamp >= wanted.calls_since)
        and (wanted.calls_until is None or trace.timestamp < wanted.calls_until)
        and wanted.model in (None, trace.model)
        and wanted.worker in (None, trace.worker or "")
        and wanted.weight_version in (None, version)
        and wanted.verdict in (None, trace.verdict)
    )


@settings(deadline=None)
@given(st.lists(calls, max_size=12), filters, st.sampled_from(["oldest", "newest"]), st.data())
def test_search_finds_what_a_look_at_every_trace_finds(
    called: list[Any], wanted: SessionFilter, order: Order, data: st.DataObject
) -> None:
    made = [fact_record(*one) for one in called]
    with closing(memory_database([MIGRATIONS])) as db:
        file = File(db)
        for record in made:
            file.store([record])
        traces = list(queries.select(db, queries.TraceFilter()))
        found = all_pages(db, SessionList(wanted, order), data.draw(st.integers(1, 4)))
        began = {one.session_id: one.timestamp for one in reversed(made) if one.session_id}
        expected = sorted(
            (at, name)
            for name, at in began.items()
            if at >= (wanted.since or 0)
            and (wanted.text or "").lower() in name.lower()
            and any(fits(wanted, one) for one in traces if one.session_id == name)
        )
        named = [name for _, name in (expected if order == "oldest" else reversed(expected))]
        assert [one["session_id"] for one in found] == named


@settings(deadline=None)
@given(st.lists(calls, max_size=8), st.sampled_from(["w", ""]), st.sampled_from(["1", ""]))
def test_query_of_traces_knows_workers_and_weight_versions(
    called: list[Any], worker: str, version: str
) -> None:
    made = [fact_record(*one) for one in called]
    with closing(memory_database([MIGRATIONS])) as db:
        File(db).store(made)
        wanted = queries.TraceFilter(worker=worker, weight_version=version)
        found = {one.trace_id for one in queries.select(db, wanted)}
        expected = SessionFilter(worker=worker, weight_version=version)
        everything = queries.select(db, queries.TraceFilter())
        assert found == {one.trace_id for one in everything if fits(expected, one)}


def test_search_of_calls_reads_an_index_and_no_trace() -> None:
    wanted = SessionFilter(calls_since=1, model="m", worker="w", weight_version="1")
    with closing(memory_database([MIGRATIONS])) as db:
        query, params = SessionList(wanted, "newest")._query("created_at, session_id", None)
        plan = [row[3] for row in db.select(f"EXPLAIN QUERY PLAN {query}", params)]
        assert "SEARCH traces USING COVERING INDEX traces_by_session (session_id=?)" in plan
        assert not any("TEMP B-TREE" in line for line in plan), "pages need no sorting"


async def test_pages_of_a_search_keep_its_conditions(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await capturing(gateway_for, tmp_path)
    for number in range(5):
        await call(live, f"s{number}")
    for number in (1, 3):
        await call(live, f"s{number}", stream=True)
    [worker] = live.gateway.workers.all
    query: dict[str, Any] = {"worker": worker.id, "verdict": "COMPLETE", "text": "S", "limit": 2}
    pages, answer = [], await live.client.get("/sessions", params={**query, "order": "newest"})
    while True:
        pages.append([one["session_id"] for one in answer.json()])
        if "next" not in answer.links:
            break
        answer = await live.client.get(answer.links["next"]["url"])
    assert pages == [["s4", "s3"], ["s2", "s1"], ["s0"]]
    first = (await live.client.get("/sessions", params={"text": "s1"})).json()
    assert [(one["trace_count"], one["sampled_tokens"]) for one in first] == [(2, 6)]
    assert first[0]["trainable_tokens"] == 6
    alone = (await live.client.get("/sessions/s1")).json()
    assert (alone["sampled_tokens"], alone["trainable_tokens"]) == (6, 6)
    for wrong in ({"verdict": "GOOD"}, {"order": "up"}, {"harness": "x"}, {"calls_since": "x"}):
        assert (await live.client.get("/sessions", params=wrong)).status_code == 400, wrong
    none = await live.client.get("/sessions", params={"worker": "nobody"})
    assert none.json() == []


def test_search_shows_the_owner_s_sessions_only() -> None:
    with closing(memory_database([MIGRATIONS])) as db:
        file = File(db)
        for name, who in (("mine", "me"), ("theirs", "you")):
            record = fact_record(name, 5000.0)
            record.head.principal = who
            file.store([record])
        wanted = SessionFilter(model="m", calls_since=1.0, owner="me")
        found = [msgspec.json.decode(row) for _, row in SessionList(wanted).rows(db, None)]
        assert [one["session_id"] for one in found] == ["mine"]
