"""Whatever happens in whatever order: each entry is stored exactly once, or lost exactly once."""

import asyncio
import contextlib
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records.storage_sinks import (
    Notes,
    full,
    is_whole,
    locked,
    opened,
    read_only,
    texts,
    threads,
)

from gateway import StorageUnavailable
from gateway.storage import Database, Entry
from gateway.storage.sqlite.faults import storage_error

KINDS = ("", "unfit", "impossible")
CALL = st.lists(st.sampled_from(KINDS), min_size=1, max_size=4).map(tuple)
EVENT = st.sampled_from(["full", "read only", "damaged", "well", "lock", "unlock", "flush", "wait"])
SCHEDULES = st.lists(CALL | CALL | EVENT, max_size=25)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.storage.commit_queue.RETRY_DELAY", 0.002)
        patch.setattr("gateway.storage.sqlite.connection.LOCK_TIMEOUT", 0.002)
        patch.setattr("gateway.storage.commit_queue.MAX_GROUP_CALLS", 3)
        yield


class Weather:
    """A fault that changes; what was inserted before it is rolled back."""

    def __init__(self) -> None:
        self.now = "well"

    def __call__(self, db: Database, rows: Sequence[str]) -> None:
        match self.now:
            case "full":
                db.insert("INSERT INTO notes (text)", [(row,) for row in rows])
                full(db, rows)
            case "read only":
                read_only(db, rows)
            case "damaged":
                error = sqlite3.DatabaseError("database disk image is malformed")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise storage_error(error) from error


class Run:
    """One schedule, from the opening of a file to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weather = Weather()
        self.sinks = (Notes(), Notes())
        for sink in self.sinks:
            sink.fault = self.weather
        self.given: list[str] = []
        self.calls: list[asyncio.Task[None]] = []

    async def follow(self, schedule: list[tuple[str, ...] | str], **options: object) -> None:
        async with opened(self.path, commit_timeout=0.02, backlog_bytes=100, **options) as storage:
            async with AsyncExitStack() as lock:
                for step in schedule:
                    if isinstance(step, tuple):
                        self.calls.append(asyncio.create_task(storage.commit(self.call(step))))
                    elif step == "lock":
                        await lock.aclose()
                        lock.enter_context(locked(self.path))
                    elif step == "unlock":
                        await lock.aclose()
                    elif step == "flush":
                        with contextlib.suppress(StorageUnavailable):
                            await storage.flush()
                    elif step == "wait":
                        await asyncio.gather(*self.calls)
                    else:
                        self.weather.now = step
                    await asyncio.sleep(0)
            self.weather.now = "well"
            await asyncio.gather(*self.calls)
        self.health = storage.health

    def call(self, kinds: tuple[str, ...]) -> list[Entry]:
        entries = []
        for kind in kinds:
            text = f"{len(self.given)} {kind}"
            self.given.append(text)
            entries.append(Entry(self.sinks[len(text) % 2], text, 7))
        return entries

    def check(self) -> None:
        stored = texts(self.path)
        lost = [text for sink in self.sinks for text in sink.lost_ones]
        told = [text for sink in self.sinks for text in sink.written_ones]
        assert Counter(stored) + Counter(lost) == Counter(self.given)
        assert sorted(told) == sorted(stored)
        assert not [text for text in stored if text.endswith(("unfit", "impossible"))]
        health = self.health
        assert (health.committed, health.lost) == (len(stored), len(lost))
        assert (health.waiting, health.waiting_bytes) == (0, 0)
        assert is_whole(self.path)
        assert threads() == []


@settings(max_examples=60)
@given(SCHEDULES, st.sampled_from(["process", "none"]))
def test_storage_stores_or_loses_each_entry_exactly_once(
    schedule: list[tuple[str, ...] | str], durability: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "gateway.db"))
        asyncio.run(run.follow(schedule, durability=durability))
        run.check()
