"""A call that had begun when its session was deleted leaves nothing of the session behind."""

import asyncio
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from gateway_plugins.trace_capture import TraceCapture
from gateway_plugins.trace_capture.store import deletions, queries
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateways.capturing import CAPTURE, call, capturing, chat
from support.records.trace_records import File, opened, record_of
from trace_capture.sessions.test_session_owners import ByName, named
from trace_capture.store.test_capture_several import Writing, found_in
from trace_capture.store.test_capture_store import conversation

from gateway import Database
from gateway.config import StorageSettings
from gateway.storage.sqlite.file import open_for_writing
from gateway.storage.sqlite.writer import change
from gateway.testing import GatewayFor, Live, ScriptedConnection, ScriptedWorker, answer_of

ANSWER = answer_of(b'{"id": "c", "choices": [], "usage": {"prompt_tokens": 1}}')


class Engine:
    """Holds each call until `go` is set; `asked` counts them."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.go = asyncio.Event()

    async def __call__(self, connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            self.asked.release()
            await self.go.wait()
            await connection.write(ANSWER)


async def begun(live: Live, engine: Engine, session_id: str) -> "asyncio.Task[httpx.Response]":
    """A call of the session, once it is at the engine."""
    path = f"/sessions/{session_id}/v1/chat/completions"
    headers = dict(live.client.headers)
    task = asyncio.create_task(live.client.post(path, json=chat(), headers=headers))
    await engine.asked.acquire()
    return task


async def status_of(live: Live, session_id: str) -> int:
    return (await live.client.get(f"/sessions/{session_id}")).status_code


@pytest.mark.parametrize("stored_before", [False, True])
async def test_late_call_does_not_bring_its_deleted_session_back(
    gateway_for: GatewayFor, tmp_path: Path, stored_before: bool
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        live = await capturing(gateway_for, tmp_path, "usage", workers=[worker.url])
        if stored_before:
            await live.client.post("/sessions", json={"session_id": "s"})
        late = await begun(live, engine, "s")
        await live.client.delete("/sessions/s")
        engine.go.set()
        assert (await late).status_code == 200
        assert await status_of(live, "s") == 404
        assert (await live.client.get("/sessions")).json() == []
        assert (await live.client.post("/traces/query", json={})).json() == []
        assert live.plugin(TraceCapture).sink.late_count == 1
        [usage] = (await live.client.get("/monitor/key_usage")).json()["data"]
        assert usage["requests"] == 1
        await call(live, "s")  # begun after the deletion
        assert (await live.client.get("/sessions/s")).json()["trace_count"] == 1


async def test_session_made_anew_gets_no_trace_of_the_deleted_one(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        late = await begun(live, engine, "s")
        await live.client.post("/sessions/batch_delete", json={"session_ids": ["s"]})
        await live.client.post("/sessions", json={"session_id": "s"})
        engine.go.set()
        await late
        assert (await live.client.get("/sessions/s")).json()["trace_count"] == 0


async def test_deletion_by_another_gateway_of_the_file_holds_for_calls_in_flight(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        live = await capturing(gateway_for, tmp_path, workers=[worker.url])
        late = await begun(live, engine, "s")
        other = await gateway_for(CAPTURE, storage=StorageSettings(path=f"{tmp_path}/traces.db"))
        assert (await other.client.delete("/sessions/s")).json() == {"deleted": 0}
        engine.go.set()
        await late
        assert await status_of(live, "s") == 404


async def test_key_deletes_no_call_of_another_key_in_an_unknown_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        live = await capturing(gateway_for, tmp_path, ByName, workers=[worker.url])
        theirs = await begun(named(live, "other"), engine, "s")
        await named(live, "maker").client.delete("/sessions/s")
        engine.go.set()
        await theirs
        assert await status_of(named(live, "other"), "s") == 200


async def test_owner_deletes_the_calls_of_other_keys_in_its_session(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    engine = Engine()
    async with ScriptedWorker(engine) as worker:
        live = await capturing(gateway_for, tmp_path, ByName, workers=[worker.url])
        await named(live, "maker").client.post("/sessions", json={"session_id": "s"})
        theirs = await begun(named(live, "other"), engine, "s")
        await named(live, "other").client.delete("/sessions/s")
        assert await status_of(named(live, "maker"), "s") == 200
        await named(live, "maker").client.delete("/sessions/s")
        engine.go.set()
        await theirs
        assert await status_of(named(live, "auditor"), "s") == 404


class Process(Writing):
    """A writer whose deletions are noted, as a gateway notes them."""

    def delete(self, session_id: str) -> None:
        def both(db: Database) -> int:
            deletions.mark(db, [session_id], None)
            return queries.delete_sessions(db, [session_id])

        change(self.db, both)
        self.sink.invalidate_cache()


step = st.sampled_from(["begin", "begin", "end", "write", "delete"])


@settings(max_examples=12)
@given(st.lists(st.tuples(step, st.integers(0, 1), st.integers(0, 9)), max_size=30))
def test_file_has_the_traces_of_the_calls_that_began_after_the_last_deletion(
    steps: list[tuple[str, int, int]],
) -> None:
    """Whichever of two processes deletes, prepares and writes, and when."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as first:
        path = Path(folder, "traces.db")
        with closing(open_for_writing(path, "process", [MIGRATIONS])) as second:
            processes = [Process(first.db), Process(second)]
            turns = iter(conversation(30))
            running, dead, wanted = [], set[str](), set[str]()
            for what, which, place in [*steps, ("write", 0, 0), ("write", 1, 0)]:
                process = processes[which]
                if what == "begin":
                    record = record_of(next(turns))
                    record.started = time.monotonic()
                    running.append(record)
                elif what == "end" and running:
                    ended = running.pop(place % len(running))
                    process.prepare(ended)
                    wanted |= {ended.trace_id} - dead
                elif what == "delete":
                    process.delete("s")
                    dead |= {one.trace_id for one in running}
                    wanted = set()
                elif what == "write" and process.group:
                    process.write()
            assert {one.trace_id for one in found_in(first)} == wanted


def test_deletions_are_forgotten_by_age_and_beyond_a_number(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        for session_id in ("a", "b", "c"):
            deletions.mark(file.db, [session_id], None)
        deletions.forget_old(file.db, most=2)
        assert known(file) == ["b", "c"]
        deletions.forget_old(file.db, keep=0.0)
        assert known(file) == []


def test_deletion_of_an_earlier_boot_counts_for_nothing(tmp_path: Path) -> None:
    """The clock that deletions are ordered by begins anew at each boot."""
    with opened(tmp_path) as file:
        deletions.mark(file.db, ["s"], None)
        file.db.execute("UPDATE deleted_sessions SET deleted_at = deleted_at + 1e6")
        record = record_of(conversation(1)[0])
        record.started = time.monotonic()
        file.store([record])
        assert found_in(file) != []
        deletions.forget_old(file.db)
        assert known(file) == []


def known(file: File) -> list[str]:
    rows = file.db.select("SELECT session_id FROM deleted_sessions ORDER BY deleted_at")
    return [session_id for (session_id,) in rows]
