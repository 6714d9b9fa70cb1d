"""What tests of the storage begin with: a sink of texts, and ways to get in its way."""

import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

from gateway.config import Config, StorageSettings
from gateway.storage import Database, Entry, Migration, Migrations, Storage
from gateway.storage.commit_queue import CommitQueue

_TABLE = "CREATE TABLE notes (number INTEGER PRIMARY KEY, text TEXT NOT NULL)"

NOTES = Migrations("notes", (Migration("create", _TABLE),))


class Notes:
    """A sink of texts. `fault` is called in the transaction, before anything is inserted."""

    def __init__(self) -> None:
        self.written_ones: list[str] = []
        self.lost_ones: list[str] = []
        self.transactions = 0
        self.fault: Callable[[Database, Sequence[str]], object] = lambda db, rows: None

    def prepare(self, db: Database, item: str) -> str:
        if "unfit" in item:
            raise ValueError("this sink does not take it")
        return item

    def write(self, db: Database, rows: Sequence[str]) -> None:
        self.transactions += 1
        self.fault(db, rows)
        many = [(None if "impossible" in row else row,) for row in rows]
        db.insert("INSERT INTO notes (text)", many)

    def written(self, rows: Sequence[str]) -> None:
        self.written_ones += rows

    def lost(self, item: str, error: Exception) -> None:
        self.lost_ones.append(item)

    def entries(self, *texts: str) -> list[Entry]:
        return [Entry(self, text, len(text)) for text in texts]


class Gate:
    """A fault that holds the writer's thread up until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, db: Database, rows: Sequence[str]) -> None:
        self.reached.set()
        self.opened.wait(20)


def full(db: Database, rows: Sequence[str]) -> None:
    """As on a full disk: SQLite may not take another page."""
    db.execute("PRAGMA max_page_count = 1")
    db.execute("INSERT INTO notes (text) VALUES (:text)", {"text": "x" * 100_000})


def read_only(db: Database, rows: Sequence[str]) -> None:
    db.execute("PRAGMA query_only = ON")


def storage_at(path: Path | str, **settings: Any) -> Storage:
    config = Config(storage=StorageSettings(path=str(path), **settings))
    return Storage(config, [NOTES])


@asynccontextmanager
async def opened(path: Path | str, **settings: Any) -> AsyncIterator[Storage]:
    storage = storage_at(path, **settings)
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection has the lock for writing."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def texts(path: Path) -> list[str]:
    """What another connection sees, in order."""
    with closing(sqlite3.connect(path)) as db:
        return [text for (text,) in db.execute("SELECT text FROM notes ORDER BY number")]


def is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def size_of(path: Path) -> int:
    return path.stat().st_size


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def aside(path: Path) -> Path:
    """The one damaged file that was moved away."""
    [moved] = [
        one
        for one in path.parent.glob(f"{path.name}.damaged-*")
        if not one.name.endswith(("-wal", "-shm"))
    ]
    return moved


def queue_of(storage: Storage) -> CommitQueue:
    queue = storage._queue
    assert queue is not None
    return queue


def overwrite_pages(path: Path, first: int, count: int) -> None:
    """From another process: closing the file in this one would drop SQLite's locks on it."""
    where = (f"of={path}", "bs=4096", f"seek={first}", f"count={count}", "conv=notrunc")
    subprocess.run(["dd", "if=/dev/urandom", *where], check=True, stderr=subprocess.DEVNULL)


def descriptors(folder: Path) -> list[str]:
    """What this process has open in the folder, also where it was deleted."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("gateway-")]
