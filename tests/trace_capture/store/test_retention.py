"""Old sessions go as a whole, and the space that they took goes back."""

import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway_plugins.trace_capture.store.retention import Retention, RetentionLimits
from gateway_plugins.trace_capture.store.schema import MIGRATIONS
from support.records.trace_records import Item, Turn, record_of, sink_of_records

from gateway import Config, Database, Storage
from gateway.config import StorageSettings
from gateway.storage import Entry

DAY = 86_400.0


@pytest_asyncio.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    one = Storage(Config(storage=StorageSettings(path=str(tmp_path / "traces.db"))), [MIGRATIONS])
    await one.open()
    yield one
    await one.close()


async def store(storage: Storage, session_id: str | None, at: float, *, size: int = 1) -> None:
    """A call at that time, of `size` bytes or more that cannot be compressed."""
    text = random.Random(at).randbytes(size).hex()
    turn = Turn([1], [[2]], [{"role": "user", "content": text}], session_id)
    record = record_of(turn)
    record.timestamp = at
    await storage.commit([Entry(sink_of_records(), Item(record), 1)])


async def sessions(storage: Storage) -> list[str]:
    return await storage.read(
        lambda db: [one for (one,) in db.select("SELECT session_id FROM sessions ORDER BY 1")]
    )


async def clean(storage: Storage, keep: RetentionLimits, now: float) -> int:
    """How often the writer was told to forget."""
    told: list[None] = []
    await Retention(storage, keep, lambda: told.append(None)).clean(now)
    return len(told)


async def test_retention_deletes_sessions_by_the_age_of_their_last_call(storage: Storage) -> None:
    await store(storage, "old", 0.0)
    await store(storage, "kept", 0.0)
    await store(storage, "kept", 5 * DAY)
    assert await clean(storage, RetentionLimits(days=3.0), 7 * DAY) == 1
    assert await sessions(storage) == ["kept"]
    assert await storage.read(_count) == 2


async def test_retention_deletes_calls_without_a_session_by_their_own_age(storage: Storage) -> None:
    await store(storage, None, 0.0)
    await store(storage, None, 5 * DAY)
    await clean(storage, RetentionLimits(days=3.0), 7 * DAY)
    assert await storage.read(_count) == 1


async def test_retention_deletes_the_oldest_sessions_beyond_the_limit(storage: Storage) -> None:
    for number in range(50):
        await store(storage, f"{number:02}", float(number))
    await clean(storage, RetentionLimits(sessions=7), DAY)
    assert await sessions(storage) == [str(number) for number in range(43, 50)]


async def test_retention_returns_the_space_of_deleted_sessions(storage: Storage) -> None:
    for number in range(60):
        await store(storage, f"{number:02}", float(number), size=50_000)
    await _checkpoint(storage)
    before = storage.path.stat().st_size
    await clean(storage, RetentionLimits(bytes=before // 3), DAY)
    await _checkpoint(storage)
    assert storage.path.stat().st_size <= before // 2
    left = await sessions(storage)
    assert left
    assert left[-1] == "59"


async def test_retention_terminates_if_nothing_fits_into_the_size_limit(storage: Storage) -> None:
    await store(storage, "s", 0.0)
    await store(storage, None, 0.0)
    await clean(storage, RetentionLimits(bytes=1), DAY)
    assert await storage.read(_count) == 0


@pytest.mark.parametrize(
    "keep", [RetentionLimits(), RetentionLimits(days=9.0, sessions=9, bytes=1 << 30)]
)
async def test_retention_keeps_sessions_within_the_limits(
    storage: Storage, keep: RetentionLimits
) -> None:
    await store(storage, "s", 0.0)
    assert await clean(storage, keep, DAY) == 0
    assert await sessions(storage) == ["s"]


def _count(db: Database) -> int:
    [(count,)] = db.select("SELECT count(*) FROM traces")
    return int(count)


async def _checkpoint(storage: Storage) -> None:
    await storage.vacuum(1)
    with sqlite3.connect(storage.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
