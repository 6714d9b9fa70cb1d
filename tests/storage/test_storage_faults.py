"""The storage while its file cannot be written: calls go on, and all is stored once, afterwards."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.plugins.recording_plugin import until
from support.records.storage_sinks import (
    NOTES,
    Gate,
    Notes,
    aside,
    descriptors,
    full,
    is_whole,
    locked,
    opened,
    overwrite_pages,
    read_only,
    size_of,
    storage_at,
    texts,
)

from gateway import Gateway, hookimpl
from gateway.storage import Database, Storage, StorageUnavailable
from gateway.storage.sqlite.faults import has_code, is_busy, is_damage
from gateway.testing import GatewayFor

Fault = Callable[[Database, Sequence[str]], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.commit_queue.RETRY_DELAY", 0.02)
    monkeypatch.setattr("gateway.storage.sqlite.connection.LOCK_TIMEOUT", 0.05)


def none(db: Database, rows: Sequence[str]) -> None:
    """No fault."""


async def recovered(storage: Storage) -> None:
    """Wait until all is stored. On a busy machine the storage may be degraded again meanwhile."""
    health = storage.health
    await until(lambda: (health.state, health.waiting, health.waiting_bytes) == ("ok", 0, 0))


async def test_storage_releases_calls_at_the_commit_timeout_and_stores_later(path: Path) -> None:
    notes = Notes()
    async with opened(path, commit_timeout=0.3) as storage:
        with locked(path):
            await asyncio.gather(*(storage.commit(notes.entries(str(n))) for n in range(3)))
            health = storage.health
            assert (health.state, health.slow, health.waiting, health.lost) == ("degraded", 1, 3, 0)
            await until(lambda: health.reason.startswith("the database file is locked"))
            await storage.commit(notes.entries("3"))
            with pytest.raises(StorageUnavailable, match="locked"):
                await storage.flush()
            assert texts(path) == []
        await recovered(storage)
        await storage.commit(notes.entries("4"))
        assert texts(path) == ["0", "1", "2", "3", "4"]
        assert (health.committed, health.lost, health.slow) == (5, 0, 1)


async def test_storage_releases_calls_behind_a_slow_sink(path: Path) -> None:
    notes = Notes()
    notes.fault = gate = Gate()
    async with opened(path, commit_timeout=0.1) as storage:
        first = asyncio.create_task(storage.commit(notes.entries("a")))
        await until(gate.reached.is_set)
        await asyncio.gather(first, storage.commit(notes.entries("b")))
        assert storage.health.state == "degraded"
        assert storage.health.reason == "a commit takes longer than 0.1 s"
        gate.opened.set()
        await recovered(storage)
    assert texts(path) == ["a", "b"]


async def test_storage_stays_ok_if_a_lock_ends_before_the_commit_timeout(path: Path) -> None:
    notes = Notes()
    async with opened(path, commit_timeout=20) as storage:
        with locked(path):
            commit = asyncio.create_task(storage.commit(notes.entries("a")))
            change = asyncio.create_task(storage.write(lambda db: list(db.select("SELECT 1"))))
            done, _ = await asyncio.wait([commit, change], timeout=0.3)  # SQLite gives up sooner
            assert not done
        await asyncio.gather(commit, change)
        assert texts(path) == ["a"]
        assert (storage.health.state, storage.health.slow) == ("ok", 0)


async def test_storage_write_waits_for_a_lock_no_longer_than_the_commit_timeout(path: Path) -> None:
    async with opened(path, commit_timeout=0.2) as storage:
        with locked(path):
            with pytest.raises(StorageUnavailable) as caught:
                await storage.write(lambda db: db.execute("DELETE FROM notes"))
            assert is_busy(caught.value)
            assert await storage.read(lambda db: list(db.select("SELECT 1"))) == [(1,)]


async def test_storage_is_degraded_until_it_catches_up_with_the_backlog(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.commit_queue.MAX_GROUP_CALLS", 1)
    notes, seen = Notes(), []
    loop = asyncio.get_running_loop()
    async with opened(path, commit_timeout=0.1) as storage:
        notes.fault = lambda db, rows: seen.append((storage.health.state, storage.health.reason))
        with locked(path):
            await asyncio.gather(*(storage.commit(notes.entries(str(n))) for n in range(3)))
            old = loop.time() + 0.2
            await until(lambda: loop.time() > old)
        await recovered(storage)
        await storage.commit(notes.entries("3"))
    assert seen[1:3] == [("degraded", "catching up with what waited")] * 2
    assert seen[3:] == [("ok", "")]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (full, "there is no room for the database"),
        (read_only, "the database file is read-only"),
    ],
)
async def test_storage_keeps_entries_while_the_file_is_full_or_read_only(
    path: Path, fault: Fault, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("before"))
        notes.fault = fault
        await storage.commit(notes.entries("a", "unfit", "b"))
        health = storage.health
        assert (health.state, health.waiting) == ("degraded", 2)
        assert health.reason.startswith(reason)
        for number in range(5):
            await storage.commit(notes.entries(str(number)))
        with pytest.raises(StorageUnavailable):
            await storage.write(lambda db: fault(db, []) or db.execute("DELETE FROM notes"))
        tried = notes.transactions
        await until(lambda: notes.transactions > tried + 2)
        assert texts(path) == ["before"]
        notes.fault = none
        await recovered(storage)
        assert texts(path) == notes.written_ones == ["before", "a", "b", *"01234"]
        assert (health.committed, health.lost, notes.lost_ones) == (8, 1, ["unfit"])
    said = [one.message for one in caplog.records if "storage" in one.message]
    begun, ended = said
    assert begun.startswith(f"storage is degraded, calls go on without it: {reason}")
    assert ended.startswith(f"storage works again; it was degraded: {reason}")


async def test_storage_retries_the_rest_if_the_file_fails_between_entries(path: Path) -> None:
    notes, failing = Notes(), [True]

    def fault(db: Database, rows: Sequence[str]) -> None:
        if failing[0] and rows == ["c"]:
            full(db, rows)

    notes.fault = fault
    async with opened(path) as storage:
        await storage.commit(notes.entries("a", "impossible", "b", "c", "d"))
        health = storage.health
        assert (health.committed, health.lost, health.waiting) == (2, 1, 2)
        assert health.waiting_bytes == 2
        assert texts(path) == ["a", "b"]
        failing[0] = False
        await recovered(storage)
    assert texts(path) == notes.written_ones == ["a", "b", "c", "d"]


async def test_storage_backlog_is_bounded_and_counts_lost_entries(path: Path) -> None:
    notes = Notes()
    notes.fault = full
    async with opened(path, backlog_bytes=10) as storage:
        for _ in range(5):
            await storage.commit(notes.entries("1234"))
        health = storage.health
        assert (health.waiting, health.waiting_bytes, health.lost) == (2, 8, 3)
        assert health.reason.startswith("there is no room for the database")
        await storage.commit(notes.entries("12"))
        assert (health.waiting_bytes, health.lost, len(notes.lost_ones)) == (10, 3, 3)
        notes.fault = none
        await recovered(storage)
        await storage.commit(notes.entries("x" * 11))
        assert (health.lost, health.state) == (4, "ok")
    assert texts(path) == ["1234", "1234", "12"]


async def test_storage_releases_waiting_calls_if_the_backlog_is_full(path: Path) -> None:
    notes = Notes()
    notes.fault = gate = Gate()
    async with opened(path, backlog_bytes=3) as storage:
        first = asyncio.create_task(storage.commit(notes.entries("abc")))
        await until(gate.reached.is_set)
        await asyncio.gather(first, storage.commit(notes.entries("d")))
        assert storage.health.reason == "the backlog is full (storage.backlog_bytes)"
        gate.opened.set()
        await recovered(storage)
    assert (texts(path), notes.lost_ones) == (["abc"], ["d"])


async def test_storage_opens_degraded_with_a_locked_file_and_recovers(path: Path) -> None:
    async with opened(path):
        pass
    notes = Notes()
    with locked(path):
        storage = storage_at(path, commit_timeout=0.1)
        await storage.open()
        assert storage.health.state == "degraded"
        assert storage.health.reason.startswith("the database file is locked")
        await storage.commit(notes.entries("a"))
    await recovered(storage)
    assert texts(path) == ["a"]
    await storage.close()


async def test_storage_health_recovers_without_a_call(path: Path) -> None:
    async with opened(path):
        pass
    with locked(path):
        storage = storage_at(path, commit_timeout=0.1)
        await storage.open()
        assert storage.health.state == "degraded"
    await until(lambda: storage.health.state == "ok")
    assert storage.health.groups == 0
    await storage.close()


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for one in list(path.parent.iterdir()):
        one.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    """A database without the tables, as a restored backup may be."""
    path.with_name("new").touch()
    path.with_name("new").replace(path)


@pytest.mark.parametrize("how", [remove, remove_all, move_away, replace])
async def test_storage_recreates_a_file_that_was_deleted_or_replaced(
    path: Path, how: Callable[[Path], None]
) -> None:
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("before"))
        await storage.read(lambda db: list(db.select("SELECT * FROM notes")))
        how(path)
        await storage.commit(notes.entries("a", "b"))
        assert storage.health.state == "degraded"
        assert storage.health.reason == "the database file was deleted or replaced"
        await recovered(storage)
        await storage.commit(notes.entries("c"))
        assert texts(path) == ["a", "b", "c"]
        found = await storage.read(lambda db: list(db.select("SELECT text FROM notes")))
        assert found == [("a",), ("b",), ("c",)]
        how(path)
        with pytest.raises(StorageUnavailable, match="deleted or replaced"):
            await storage.write(lambda db: db.execute("DELETE FROM notes"))
        await storage.write(lambda db: db.execute("DELETE FROM notes"))
    assert is_whole(path)


async def test_storage_recovers_if_its_folder_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    notes = Notes()
    async with opened(folder / "gateway.db") as storage:
        await storage.commit(notes.entries("before"))
        shutil.rmtree(folder)
        await storage.commit(notes.entries("a"))
        said = "the database file cannot be opened"
        await until(lambda: storage.health.reason.startswith(said))
        with pytest.raises(StorageUnavailable) as caught:
            await storage.read(lambda db: list(db.select("SELECT * FROM notes")))
        assert has_code(caught.value, sqlite3.SQLITE_CANTOPEN)
        folder.mkdir()
        await recovered(storage)
        assert texts(folder / "gateway.db") == ["a"]
    assert descriptors(folder) == []


async def with_many_pages(path: Path) -> None:
    async with opened(path) as storage:
        await storage.commit(Notes().entries(*("x" * 3_000 for _ in range(500))))


async def test_storage_moves_aside_a_file_whose_damage_a_reader_finds(path: Path) -> None:
    await with_many_pages(path)
    notes = Notes()
    async with opened(path) as storage:
        overwrite_pages(path, 100, 20)
        with pytest.raises(StorageUnavailable) as caught:
            await storage.read(lambda db: list(db.select("SELECT max(text) FROM notes")))
        assert is_damage(caught.value)
        await storage.commit(notes.entries("a"))
    await is_moved_aside(path)


async def test_storage_moves_aside_a_file_whose_damage_the_writer_finds(path: Path) -> None:
    await with_many_pages(path)
    notes = Notes()
    notes.fault = lambda db, rows: list(db.select("SELECT max(text) FROM notes"))
    async with opened(path) as storage:
        overwrite_pages(path, 100, 20)
        await storage.commit(notes.entries("a"))
        assert storage.health.reason.startswith("the database file is damaged")
        await storage.commit(notes.entries("b"))
        await storage.close()
        assert notes.lost_ones == ["a", "b"]
    await is_moved_aside(path)


async def is_moved_aside(path: Path) -> None:
    """At the next start, although the check there is too quick to find the damage."""
    assert path.with_name("gateway.db.is-damaged").exists()
    async with opened(path) as storage:
        assert storage.health.state == "ok"
        assert texts(path) == []
    assert size_of(aside(path)) > 1_000_000
    assert not path.with_name("gateway.db.is-damaged").exists()


class Tables:
    """A plugin that has tables, and nothing else."""

    @hookimpl
    def migrations(self) -> object:
        return NOTES


async def test_health_endpoint_reports_degraded_storage(gateway_for: GatewayFor) -> None:
    live = await gateway_for(Tables)
    gateway: Gateway = live.gateway
    notes = Notes()
    notes.fault = full
    await gateway.storage.commit(notes.entries("a"))
    answer = await live.client.get("/health")
    said = answer.json()
    assert (answer.status_code, said["status"]) == (200, "degraded")
    assert said["reason"].startswith("storage: there is no room for the database")
    notes.fault = none
    await recovered(gateway.storage)
    assert (await live.client.get("/health")).json() == {"status": "ok"}
