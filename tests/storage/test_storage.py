"""The storage when all is well: what is committed, in which transactions, and what is read."""

import asyncio
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.plugins.recording_plugin import until
from support.records.storage_sinks import (
    Gate,
    Notes,
    is_whole,
    locked,
    opened,
    queue_of,
    size_of,
    storage_at,
    texts,
)

from gateway.config import Config, StorageSettings
from gateway.storage import ConstraintViolated, Database, Entry, Storage, StorageUnavailable
from gateway.storage.sqlite.faults import has_code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


async def test_storage_commit_is_visible_to_any_connection_on_return(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        for number in range(20):
            await storage.commit(notes.entries(f"{number}a", f"{number}b"))
            assert texts(path)[-2:] == notes.written_ones[-2:] == [f"{number}a", f"{number}b"]
        health = storage.health
        assert (health.state, health.committed, health.groups) == ("ok", 40, 20)
        assert (health.waiting, health.waiting_bytes, health.lost, health.slow) == (0, 0, 0, 0)


async def test_storage_groups_entries_that_arrive_during_a_commit(path: Path) -> None:
    notes = Notes()
    notes.fault = gate = Gate()
    async with opened(path) as storage:
        first = asyncio.create_task(storage.commit(notes.entries("0")))
        await until(gate.reached.is_set)
        rest = [asyncio.create_task(storage.commit(notes.entries(str(n)))) for n in range(1, 101)]
        await until(lambda: storage.health.waiting == 101)
        assert not any(task.done() for task in [first, *rest])
        gate.opened.set()
        await asyncio.gather(first, *rest)
        assert (notes.transactions, storage.health.groups) == (2, 2)
        assert texts(path) == [str(n) for n in range(101)]


async def test_storage_groups_entries_that_arrive_at_once(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await asyncio.gather(*(storage.commit(notes.entries(str(n))) for n in range(50)))
        assert notes.transactions == 1
        assert len(texts(path)) == 50


async def test_storage_writes_entries_of_several_sinks_in_one_transaction(path: Path) -> None:
    first, second = Notes(), Notes()
    seen = []

    def fault(db: Any, rows: Sequence[str]) -> None:
        seen.append((db.in_transaction, texts(path)))

    second.fault = fault
    async with opened(path) as storage:
        await storage.commit([*first.entries("a"), *second.entries("b"), *first.entries("c")])
    assert seen == [(True, [])]
    assert texts(path) == ["a", "c", "b"]


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2), ("none", 1)])
async def test_storage_durability_sets_sqlite_s_synchronous_pragma(
    path: Path, durability: str, synchronous: int
) -> None:
    notes = Notes()
    seen: list[tuple[object, ...]] = []

    def look(db: Database, rows: Sequence[str]) -> None:
        seen.append(*db.select("PRAGMA synchronous"))
        seen.append(*db.select("PRAGMA journal_mode"))

    notes.fault = look
    async with opened(path, durability=durability) as storage:
        await storage.commit(notes.entries("a"))
        await storage.flush()
    assert seen == [(synchronous,), ("wal",)]


async def test_storage_durability_none_stores_entries_without_waiting(path: Path) -> None:
    notes = Notes()
    async with opened(path, durability="none") as storage:
        with locked(path):
            await storage.commit(notes.entries("a"))
            await storage.commit(notes.entries("b"))
            assert (texts(path), storage.health.waiting, storage.health.state) == ([], 2, "ok")
        await storage.flush()
        assert texts(path) == ["a", "b"]


async def test_storage_splits_a_large_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.commit_queue.MAX_GROUP_CALLS", 7)
    notes = Notes()
    async with opened(path) as storage:
        await asyncio.gather(*(storage.commit(notes.entries(str(n))) for n in range(20)))
        assert notes.transactions == storage.health.groups == 3
    assert texts(path) == [str(n) for n in range(20)]


async def test_storage_flush_waits_only_for_earlier_entries(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.commit_queue.MAX_GROUP_CALLS", 1)
    notes = Notes()
    async with opened(path, durability="none") as storage:
        await storage.commit(notes.entries("before"))
        flushed = asyncio.create_task(storage.flush())
        await asyncio.sleep(0)
        gate = Gate()
        notes.fault = lambda db, rows: gate(db, rows) if rows == ["after"] else None
        await storage.commit(notes.entries("after"))
        await flushed
        assert texts(path) == ["before"]
        gate.opened.set()
        await storage.flush()
        assert texts(path) == ["before", "after"]
        await storage.flush()


async def test_storage_stores_the_entries_of_a_cancelled_call(path: Path) -> None:
    notes = Notes()
    notes.fault = gate = Gate()
    async with opened(path) as storage:
        call = asyncio.create_task(storage.commit(notes.entries("a")))
        await until(gate.reached.is_set)
        call.cancel()
        gate.opened.set()
        await storage.flush()
        assert call.cancelled()
        assert texts(path) == ["a"]


@pytest.mark.parametrize("fault", ["unfit", "impossible"])
async def test_storage_loses_only_the_entries_that_a_sink_cannot_store(
    path: Path, fault: str
) -> None:
    notes, other = Notes(), Notes()
    async with opened(path) as storage:
        await asyncio.gather(
            storage.commit(notes.entries("a", fault, "b")),
            storage.commit(notes.entries("c")),
            storage.commit(other.entries("d", fault)),
        )
        health = storage.health
        assert (health.state, health.committed, health.lost, health.waiting) == ("ok", 4, 2, 0)
        assert health.waiting_bytes == 0
    assert sorted(texts(path)) == ["a", "b", "c", "d"]
    assert (notes.written_ones, notes.lost_ones) == (["a", "b", "c"], [fault])
    assert (other.written_ones, other.lost_ones) == (["d"], [fault])


async def test_storage_stays_ok_if_a_sink_s_statement_is_wrong(path: Path) -> None:
    notes = Notes()
    notes.fault = lambda db, rows: db.execute("INSERT INTO nowhere VALUES (1)")
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        assert (storage.health.state, notes.lost_ones) == ("ok", ["a"])


class Broken(Notes):
    """Breaks in each of the methods that only tell it something."""

    def written(self, rows: Sequence[str]) -> None:
        super().written(rows)
        raise asyncio.CancelledError

    def lost(self, item: str, error: Exception) -> None:
        super().lost(item, error)
        raise SystemExit


async def test_storage_stores_entries_once_if_a_sink_s_callbacks_raise(path: Path) -> None:
    broken = Broken()
    async with opened(path) as storage:
        await storage.commit(broken.entries("a", "impossible", "b"))
        await storage.commit(broken.entries("c", "unfit"))
        assert (storage.health.committed, storage.health.lost) == (3, 2)
    assert texts(path) == broken.written_ones == ["a", "b", "c"]
    assert broken.lost_ones == ["impossible", "unfit"]


async def test_storage_survives_any_exception_of_a_sink(path: Path) -> None:
    notes = Notes()

    def fault(db: Database, rows: Sequence[str]) -> None:
        raise asyncio.CancelledError

    notes.fault = fault
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        assert notes.lost_ones == ["a"]
        notes.fault = lambda db, rows: None
        await storage.commit(notes.entries("b"))
    assert texts(path) == ["b"]


async def test_storage_write_is_a_transaction(path: Path) -> None:
    async with opened(path) as storage:

        def insert(db: Database) -> int:
            db.execute("INSERT INTO notes (text) VALUES ('a')")
            assert texts(path) == []
            return 7

        def fail(db: Database) -> None:
            db.execute("INSERT INTO notes (text) VALUES ('b')")
            raise LookupError("no such session")

        assert await storage.write(insert) == 7
        with pytest.raises(LookupError, match="no such session"):
            await storage.write(fail)
        with pytest.raises(ConstraintViolated):
            await storage.write(lambda db: db.execute("INSERT INTO notes (text) VALUES (NULL)"))
        assert texts(path) == ["a"]


async def test_storage_raises_runtime_error_if_a_query_raises_stop_iteration(path: Path) -> None:
    async with opened(path) as storage:
        with pytest.raises(RuntimeError):
            await storage.read(lambda db: next(db.select("SELECT text FROM notes")))
        with pytest.raises(RuntimeError):
            await storage.write(lambda db: next(db.select("SELECT text FROM notes")))


async def test_storage_readers_see_commits_and_cannot_write(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        for number in range(3):
            await storage.commit(notes.entries(str(number)))
            found = await storage.read(lambda db: list(db.select("SELECT text FROM notes")))
            assert found[-1] == (str(number),)
        with pytest.raises(StorageUnavailable) as caught:
            await storage.read(lambda db: db.execute("DELETE FROM notes"))
        assert has_code(caught.value, sqlite3.SQLITE_READONLY)
        own = storage.connect()
        assert list(own.select("SELECT count(*) FROM notes")) == [(3,)]
        own.close()


async def test_storage_returns_free_space_to_the_file_system(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries(*("x" * 10_000 for _ in range(200))))
        await storage.write(lambda db: db.execute("DELETE FROM notes"))
        assert await storage.vacuum(10)
        while await storage.vacuum(100):
            pass
        [(left,)] = await storage.read(lambda db: list(db.select("PRAGMA freelist_count")))
        assert left == 0
    assert size_of(path) < 100_000


async def test_storage_files_are_readable_by_their_owner_only(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        await storage.read(lambda db: list(db.select("SELECT 1")))
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    names = ("gateway.db", "gateway.db-shm", "gateway.db-wal")
    assert modes == dict.fromkeys(names, 0o600)


async def test_storage_in_memory_is_a_file_deleted_on_close() -> None:
    notes = Notes()
    storage = storage_at(":memory:")
    for _ in range(2):
        await storage.open()
        await storage.commit(notes.entries("a"))
        file = storage.path
        assert texts(file) == ["a"]
        await storage.close()
        assert not file.parent.exists()


async def test_storage_opens_no_file_without_migrations(path: Path) -> None:
    storage = Storage(Config(storage=StorageSettings(path=str(path / "no" / "folder"))), [])
    await storage.open()
    notes = Notes()
    await storage.commit(notes.entries("a"))
    assert (notes.lost_ones, storage.health.lost) == (["a"], 1)
    for attempt in (storage.read(lambda db: None), storage.write(lambda db: None)):
        with pytest.raises(StorageUnavailable, match="not open"):
            await attempt
    await storage.flush()
    await storage.close()


async def test_storage_keeps_each_caller_s_entries_in_order(path: Path) -> None:
    notes = Notes()

    async def call(name: int) -> None:
        for turn in range(20):
            await storage.commit([Entry(notes, f"{name}.{turn}", 1)])

    async with opened(path) as storage:
        await asyncio.gather(*(call(name) for name in range(20)))
        assert storage.health.committed == 400
        assert storage.health.groups < 400
        assert not queue_of(storage)._active
    found = texts(path)
    for name in range(20):
        mine = [one for one in found if one.startswith(f"{name}.")]
        assert mine == [f"{name}.{turn}" for turn in range(20)]
    assert is_whole(path)


def lazily(notes: Notes, *texts: str) -> list[Entry]:
    return [Entry(notes, text, 1, lazy=True) for text in texts]


async def test_storage_stores_lazy_entries_soon_without_waiting(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        for number in range(20):
            await storage.commit(lazily(notes, str(number)))
        assert notes.transactions == 0
        await until(lambda: len(notes.written_ones) == 20)
        assert notes.transactions == 1
        assert texts(path) == [str(number) for number in range(20)]


async def test_storage_commit_takes_earlier_lazy_entries_along_in_order(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(lazily(notes, "a"))
        await storage.commit([*notes.entries("b"), *lazily(notes, "c")])
        assert (texts(path), notes.transactions) == (["a", "b", "c"], 1)


async def test_storage_flush_and_close_store_lazy_entries(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(lazily(notes, "a"))
        await storage.flush()
        assert texts(path) == ["a"]
        await storage.commit(lazily(notes, "b"))
    assert texts(path) == ["a", "b"]


async def test_storage_does_not_hurry_lazy_entries_that_arrive_during_a_commit(path: Path) -> None:
    notes = Notes()
    notes.fault = gate = Gate()
    async with opened(path) as storage:
        first = asyncio.create_task(storage.commit(notes.entries("0")))
        await until(gate.reached.is_set)
        for number in range(1, 4):
            await storage.commit(lazily(notes, str(number)))
        gate.opened.set()
        await first
        assert notes.transactions == 1
        await until(lambda: len(notes.written_ones) == 4)
        assert notes.transactions == 2


async def test_storage_durability_power_ignores_lazy(path: Path) -> None:
    notes = Notes()
    async with opened(path, durability="power") as storage:
        await storage.commit(lazily(notes, "a"))
        assert texts(path) == ["a"]
