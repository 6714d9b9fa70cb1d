"""The end of a storage: what waits is stored or counted, and nothing is left behind."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.plugins.recording_plugin import until
from support.records.storage_sinks import (
    Gate,
    Notes,
    descriptors,
    full,
    is_whole,
    locked,
    opened,
    storage_at,
    texts,
    threads,
)

from gateway import Database, StorageUnavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.store.CLOSE_TIMEOUT", 0.3)
    monkeypatch.setattr("gateway.storage.sqlite.connection.LOCK_TIMEOUT", 0.05)


def nothing_is_left(path: Path) -> None:
    assert (threads(), descriptors(path.parent)) == ([], [])


async def test_storage_can_be_opened_and_closed_twice(path: Path) -> None:
    notes = Notes()
    storage = storage_at(path)
    await storage.close()
    for number in range(2):
        await storage.open()
        await storage.open()
        await storage.commit(notes.entries(str(number)))
        await storage.read(lambda db: list(db.select("SELECT 1")))
        assert len([one for one in threads() if one == "gateway-writer"]) == 1
        await storage.close()
        await storage.close()
        nothing_is_left(path)
    assert texts(path) == ["0", "1"]
    assert [one.name for one in path.parent.iterdir()] == ["gateway.db"]


async def test_storage_close_stores_waiting_entries(path: Path) -> None:
    notes = Notes()
    storage = storage_at(path, durability="none")
    await storage.open()
    for number in range(1_000):
        await storage.commit(notes.entries(str(number)))
    await storage.close()
    assert texts(path) == [str(number) for number in range(1_000)]
    assert (storage.health.waiting, storage.health.lost) == (0, 0)
    nothing_is_left(path)


async def test_storage_close_retries_a_failed_commit_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.commit_queue.RETRY_DELAY", 1_000.0)
    notes = Notes()
    storage = storage_at(path)
    await storage.open()
    notes.fault = full
    await storage.commit(notes.entries("a"))
    notes.fault = lambda db, rows: None
    await storage.close()
    assert (texts(path), notes.lost_ones) == (["a"], [])
    nothing_is_left(path)


async def test_storage_close_waits_for_a_locked_file(path: Path) -> None:
    notes = Notes()
    storage = storage_at(path, commit_timeout=0.1)
    await storage.open()
    with locked(path):
        await storage.commit(notes.entries("a"))
        closing = asyncio.create_task(storage.close())
        done, _ = await asyncio.wait([closing], timeout=0.2)
        assert not done
    await closing
    assert texts(path) == ["a"]
    nothing_is_left(path)


@pytest.mark.usefixtures("quick")
async def test_storage_close_counts_entries_lost_to_a_full_disk(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    notes.fault = full
    storage = storage_at(path)
    await storage.open()
    await storage.commit(notes.entries("a", "b"))
    await storage.commit(notes.entries("c"))
    await storage.close()
    assert notes.lost_ones == ["a", "b", "c"]
    assert (storage.health.lost, storage.health.waiting) == (3, 0)
    assert "3 entries are lost at shutdown: there is no room for the database: " in caplog.text
    assert texts(path) == []
    nothing_is_left(path)


@pytest.mark.usefixtures("quick")
async def test_storage_close_counts_entries_lost_to_a_locked_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    storage = storage_at(path)
    await storage.open()
    with locked(path):
        calls = [asyncio.create_task(storage.commit(notes.entries(one))) for one in "abc"]
        change = asyncio.create_task(storage.write(lambda db: db.execute("DELETE FROM notes")))
        await until(lambda: storage.health.waiting == 3)
        await storage.close()
        await asyncio.gather(*calls)
        with pytest.raises(StorageUnavailable):
            await change
        assert (notes.lost_ones, storage.health.lost) == (["a", "b", "c"], 3)
        assert "3 entries are lost at shutdown" in caplog.text
        assert texts(path) == []
    nothing_is_left(path)


@pytest.mark.usefixtures("quick")
def test_storage_writer_stuck_at_close_stores_nothing_later(path: Path) -> None:
    """And finds that the event loop is closed."""
    notes = Notes()
    notes.fault = gate = Gate()
    storage = storage_at(path)

    async def run() -> None:
        await storage.open()
        call = asyncio.create_task(storage.commit(notes.entries("a")))
        await until(gate.reached.is_set)
        change = asyncio.create_task(storage.write(lambda db: db.execute("DELETE FROM notes")))
        await asyncio.sleep(0)
        await storage.close()
        await call
        with pytest.raises(StorageUnavailable, match="shut down"):
            await change

    asyncio.run(run())
    assert (notes.lost_ones, storage.health.lost) == (["a"], 1)
    gate.opened.set()
    _wait_for(lambda: threads() == [])
    nothing_is_left(path)
    assert (texts(path), notes.lost_ones, notes.written_ones) == ([], ["a"], [])


@pytest.mark.usefixtures("quick")
async def test_storage_writer_finishing_after_close_changes_no_count(path: Path) -> None:
    notes = Notes()
    notes.fault = gate = Gate()
    storage = storage_at(path)
    await storage.open()
    call = asyncio.create_task(storage.commit(notes.entries("a")))
    await until(gate.reached.is_set)
    await storage.close()
    await call
    gate.opened.set()
    await until(lambda: threads() == [])
    await asyncio.sleep(0)
    health = storage.health
    assert (health.state, health.lost, health.waiting, health.waiting_bytes) == ("ok", 1, 0, 0)
    nothing_is_left(path)


def _wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


async def test_storage_rejects_entries_reads_and_writes_after_close(path: Path) -> None:
    notes = Notes()
    async with opened(path) as storage:
        pass
    await storage.commit(notes.entries("a"))
    assert (notes.lost_ones, storage.health.lost) == (["a"], 1)
    with pytest.raises(StorageUnavailable, match="not open"):
        await storage.write(lambda db: db.execute("DELETE FROM notes"))
    with pytest.raises(StorageUnavailable, match="not open"):
        await storage.read(lambda db: list(db.select("SELECT 1")))


FOREVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"


async def test_storage_close_interrupts_running_queries(path: Path) -> None:
    storage = storage_at(path)
    await storage.open()
    begun = []

    def endless(db: Database) -> list[object]:
        begun.append(db)
        return list(db.select(FOREVER))

    queries = [asyncio.create_task(storage.read(endless)) for _ in range(6)]
    await until(lambda: len(begun) == 4)
    await storage.close()
    errors = await asyncio.gather(*queries, return_exceptions=True)
    assert [type(error) for error in errors[:4]] == [StorageUnavailable] * 4
    assert [type(error) for error in errors[4:]] == [StorageUnavailable] * 2
    nothing_is_left(path)


async def test_storage_close_interrupts_a_query_whose_caller_left(path: Path) -> None:
    storage = storage_at(path)
    await storage.open()
    begun = []

    def endless(db: Database) -> list[object]:
        begun.append(db)
        return list(db.select(FOREVER))

    query = asyncio.create_task(storage.read(endless))
    await until(lambda: bool(begun))
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    await storage.close()
    nothing_is_left(path)


async def test_storage_close_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    notes = Notes()
    storage = storage_at(path, commit_timeout=0.1)
    await storage.open()
    with locked(path):
        await storage.commit(notes.entries("a"))
        closing = asyncio.create_task(storage.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert (notes.lost_ones, storage.health.lost) == (["a"], 1)
    nothing_is_left(path)
    assert is_whole(path)


async def test_storage_flush_raises_if_the_file_is_full(path: Path, quick: None) -> None:
    notes = Notes()

    def fault(db: Database, rows: Sequence[str]) -> None:
        gate(db, rows)
        full(db, rows)

    gate = Gate()
    notes.fault = fault
    storage = storage_at(path, durability="none")
    await storage.open()
    await storage.commit(notes.entries("a"))
    flush = asyncio.create_task(storage.flush())
    await until(gate.reached.is_set)
    gate.opened.set()
    with pytest.raises(StorageUnavailable, match="no room"):
        await flush
    await storage.close()
    nothing_is_left(path)
