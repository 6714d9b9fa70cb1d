"""The queue and faults of its file: locked, replaced by another, and ends that are not stored."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gateway_plugins.batch.queue.items import COMPLETED, ERROR
from gateway_plugins.batch.queue.schema import MIGRATIONS
from gateway_plugins.batch.queue.settling import Settling, Written
from gateway_plugins.batch.running import runner, upkeep
from support.plugins.recording_plugin import until
from support.records.a_queue import check_counts
from support.records.queued_items import engine_of, new_item
from support.records.run_items import ended, item_of, queue, quick
from support.records.storage_sinks import locked
from support.workers.failing_worker import OK
from support.workers.patient_worker import patient

from gateway import Database, StorageUnavailable
from gateway.config import StorageSettings
from gateway.storage import ConstraintViolated
from gateway.storage.sqlite.file import open_for_writing
from gateway.testing import GatewayFor, Live, ScriptedWorker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LOOK", 0.05)
    monkeypatch.setattr(runner, "FAILED", 0.05)
    monkeypatch.setattr("gateway.storage.commit_queue.RETRY_DELAY", 0.02)


def stored(path: Path, **settings: Any) -> StorageSettings:
    return StorageSettings(path=str(path), **settings)


async def counts_are_right(live: Live) -> None:
    await live.gateway.storage.read(check_counts)


async def test_gateway_that_begins_with_a_locked_file_runs_items_later(
    gateway_for: GatewayFor, path: Path
) -> None:
    open_for_writing(path, "process", [MIGRATIONS]).close()
    with locked(path):
        live = await gateway_for(quick(), storage=stored(path, commit_timeout=0.05))
    await until(lambda: live.gateway.storage.health.state == "ok")
    [item] = await ended(live, await queue(live, new_item()))
    assert item.state == COMPLETED


async def test_item_whose_end_waits_for_a_full_disk_does_not_run_again(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although smaller changes, such as to queue the item again, would find room."""
    write, tries = Settling.write, [0]

    def fail(self: Settling, db: Database, rows: Sequence[Written]) -> None:
        tries[0] += 1
        if tries[0] < 20:
            cause = sqlite3.OperationalError("database or disk is full")
            cause.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise StorageUnavailable("it is full") from cause
        write(self, db, rows)

    monkeypatch.setattr(Settling, "write", fail)
    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(quick(), workers=[worker.url])
        [item] = await ended(live, await queue(live, new_item()))
        assert (item.state, item.attempts) == (COMPLETED, 1)
        assert len(worker.requests) == 1
        assert tries[0] == 20
        await counts_are_right(live)


async def test_item_whose_end_cannot_be_stored_runs_again_and_ends_after_the_last_attempt(
    gateway_for: GatewayFor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = Settling.write
    left = [1]

    def fail(self: Settling, db: Database, rows: Sequence[Written]) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise ConstraintViolated("a fault")
        write(self, db, rows)

    async with ScriptedWorker(OK) as worker:
        live = await gateway_for(quick(max_attempts=2), workers=[worker.url])
        left[0] = 2  # once with others, once alone
        monkeypatch.setattr(Settling, "write", fail)
        [item] = await ended(live, await queue(live, new_item()))
        assert (item.state, item.attempts, item.charged) == (COMPLETED, 2, 2)
        left[0] = 1_000
        [item] = await ended(live, await queue(live, new_item()))
        assert (item.state, item.attempts) == (ERROR, 2)
        assert item.last_error is not None
        assert item.last_error.code == "not_stored"
        assert "so it will run again" in caplog.text
        await counts_are_right(live)


async def test_items_of_a_file_that_takes_the_place_of_the_one_in_use_run(
    gateway_for: GatewayFor, path: Path
) -> None:
    """A backup of when the items were running: nobody holds them but this process, as it seems."""
    async with patient() as worker:
        live = await gateway_for(quick(), workers=[worker.url], storage=stored(path))
        ids = await queue(live, *[new_item() for _ in range(3)])
        await until(lambda: len(worker.worker.requests) == 3)
        backup = path.with_name("backup.db")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        worker.free.set()
        await ended(live, ids)
        later = await queue(live, new_item())
        await ended(live, later)
        backup.replace(path)
        items = await ended(live, ids)
        assert {item.state for item in items} == {COMPLETED}
        assert await engine_of(live).find(later[0], None) is None
        [item] = await ended(live, await queue(live, new_item()))
        assert item.state == COMPLETED
        await counts_are_right(live)


async def test_items_are_submitted_to_an_empty_file_in_the_place_of_the_one_in_use(
    gateway_for: GatewayFor, path: Path
) -> None:
    live = await gateway_for(quick(), storage=stored(path))
    await ended(live, await queue(live, new_item()))
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    ids: list[str] = []
    while not ids:
        try:
            ids = await queue(live, new_item())
        except Exception:  # noqa: BLE001  the first change notices that the file is gone
            continue
    assert (await ended(live, ids))[0].state == COMPLETED
    assert (await item_of(live, ids[0])).attempts == 1
