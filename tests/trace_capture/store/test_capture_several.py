"""Several processes record the turns of the same sessions into one file."""

import copy
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gateway_plugins.trace_capture.recording.hooks import Hooks
from gateway_plugins.trace_capture.recording.record import Record
from gateway_plugins.trace_capture.store import queries
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from gateway_plugins.trace_capture.store.session_cache import SessionCache
from gateway_plugins.trace_capture.store.sink import TraceSink
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records.trace_records import File, Item, Turn, opened, record_of
from trace_capture.store.test_capture_store import conversation, trees

from gateway import Trace
from gateway.storage.sink import Entry, Group
from gateway.storage.sqlite.file import open_for_writing
from gateway.storage.sqlite.writer import Tally, change, commit


def _read_anew(item: Any) -> Record:
    """As of a Capture: each time another record."""
    record: Record = copy.deepcopy(item.record)
    return record


class Writing(File):
    """One process. A group is prepared some time before it is written."""

    def restart(self) -> None:
        self.sink = TraceSink(Hooks(1), _read_anew)
        self.group: Group = []

    def prepare(self, record: Record) -> None:
        entry = Entry(self.sink, Item(record), 1)
        entry.rows = self.sink.prepare(self.db, entry.item)
        entry.prepared = True
        self.group.append(entry)

    def write(self) -> None:
        tally = Tally()
        commit(self.db, self.group, tally)
        assert tally.lost == 0
        self.group = []

    def delete(self, session_id: str) -> None:
        change(self.db, lambda db: queries.delete_sessions(db, [session_id]))
        self.sink.invalidate_cache()


def found_in(file: File) -> list[Trace]:
    return list(queries.select(file.db, queries.TraceFilter()))


step = st.sampled_from(["turn", "turn", "turn", "write", "delete"])


@settings(max_examples=12)
@given(trees(), st.lists(st.tuples(step, st.integers(0, 2)), max_size=30))
def test_several_writers_store_the_same_traces_as_one_process(
    turns: list[Turn], steps: list[tuple[str, int]]
) -> None:
    """Whoever has prepared what, and whatever was written and deleted meanwhile."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        with opened(Path(one)) as first, opened(Path(other)) as alone:
            path, single = Path(one, "traces.db"), Writing(alone.db)
            with (
                closing(open_for_writing(path, "process", [MIGRATIONS])) as second_db,
                closing(open_for_writing(path, "process", [MIGRATIONS])) as third_db,
            ):
                writers = [Writing(first.db), Writing(second_db), Writing(third_db)]
                left = [record_of(turn) for turn in turns]
                for step, place in (*steps, ("write", 0), ("write", 1), ("write", 2)):
                    writer = writers[place]
                    if step == "turn" and left:
                        writer.prepare(left.pop(0))
                    elif step == "delete":
                        writer.delete("s")
                        single.delete("s")
                    elif step == "write" and writer.group:
                        for entry in writer.group:
                            single.prepare(entry.item.record)
                        writer.write()
                        single.write()
                assert found_in(first) == found_in(alone)


def test_writer_loads_a_session_of_its_own_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the others write meanwhile."""
    loaded: list[str] = []
    load = SessionCache._load

    def counted(cache: SessionCache, db: Any, session_id: str, codec: Any) -> Any:
        loaded.append(session_id)
        return load(cache, db, session_id, codec)

    monkeypatch.setattr(SessionCache, "_load", counted)
    with opened(tmp_path) as first:
        with closing(open_for_writing(tmp_path / "traces.db", "process", [MIGRATIONS])) as db:
            second = File(db)
            for ours, theirs in zip(
                conversation(20, "ours"), conversation(20, "theirs"), strict=True
            ):
                first.store([record_of(ours)])
                second.store([record_of(theirs)])
            assert sorted(loaded) == ["ours", "theirs"]
            first.store([record_of(conversation(21, "theirs")[20])])
            assert sorted(loaded) == ["ours", "theirs", "theirs"]
            assert found_in(first)[-1].parent_id == found_in(first)[-2].trace_id


@pytest.mark.parametrize(("turns", "statements"), [(1, 1), (7, 1), (8, 2), (30, 24)])
def test_writer_loads_a_session_with_few_statements(
    turns: int, statements: int, tmp_path: Path
) -> None:
    """One if it has few traces; of many, also the bases of the latest ones are read."""
    with opened(tmp_path) as file:
        *before, last = map(record_of, conversation(turns + 1, "s"))
        file.store(before)
        file.restart()
        sink: Any = file.sink  # it takes Items in place of Captures
        sink.prepare(file.db, Item(record_of(conversation(1, "t")[0])))  # as a group begins
        seen: list[str] = []
        file.db.raw.set_trace_callback(seen.append)
        made = sink.prepare(file.db, Item(last))
        file.db.raw.set_trace_callback(None)
        assert len(seen) == statements
        assert made.row is not None
        assert made.row.depth == turns
        assert last.head.parent == before[-1].trace_id


class LateHooks(Hooks):
    """A redact hook that is there once `redacts` is set, as after a reload."""

    redacts = False
    asked = 0

    @property
    def has_redact_hooks(self) -> bool:
        return self.redacts

    def redacted(self, record: Record) -> Trace | None:
        self.asked += 1
        return None


def test_redact_hook_added_after_a_whole_group_was_lost_sees_the_next_trace(
    tmp_path: Path,
) -> None:
    def read(item: Any) -> Record:
        record: Record = item.record  # raises for what no record can be made of
        return record

    hooks, tally = LateHooks(1), Tally()
    sink, broken = TraceSink(hooks, read), SimpleNamespace(call=SimpleNamespace(session_id=None))
    with opened(tmp_path) as file:
        commit(file.db, [Entry(sink, broken, 1)], tally)
        assert tally.lost == 1
        hooks.redacts = True
        whole = record_of(Turn(prompt=[1, 2], completions=[[3, 4]]))
        commit(file.db, [Entry(sink, Item(whole), 1)], tally)
    assert (tally.lost, hooks.asked) == (1, 1)
