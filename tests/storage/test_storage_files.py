"""The file at start-up, and real file systems that refuse: full, limited, read-only."""

import asyncio
import fcntl
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from support.paths import SUPPORT
from support.records.storage_sinks import (
    NOTES,
    Notes,
    aside,
    content_of,
    descriptors,
    is_whole,
    opened,
    overwrite_pages,
    put,
    storage_at,
    texts,
    threads,
)

from gateway.config import Config, StorageSettings
from gateway.errors import ConfigError
from gateway.storage import Migration, Migrations, Storage, StorageError
from gateway.storage.sqlite import file
from gateway.storage.sqlite.file import mark_damaged, open_for_writing, prepare_file

FULL = ("there is no room for the database", "the disk does not work")
PYTHON = f"exec {shlex.quote(sys.executable)} {SUPPORT / 'records' / 'storage_process.py'}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


async def filled(path: Path, count: int = 500, size: int = 3_000) -> None:
    async with opened(path) as storage:
        await storage.commit(Notes().entries(*("x" * size for _ in range(count))))


async def test_storage_rejects_a_missing_folder_or_a_folder_as_file(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "gateway.db"
    with pytest.raises(ConfigError) as caught:
        await storage_at(path).open()
    assert str(caught.value) == f"storage.path {path}: there is no folder {path.parent}; create it"
    with pytest.raises(ConfigError, match="is a folder; name a file"):
        await storage_at(tmp_path).open()
    assert threads() == []


@pytest.mark.parametrize("content", [b"SQLite format 3\0" + b"garbage" * 1_000, b"# My thesis\n"])
async def test_storage_moves_aside_a_file_that_is_no_database(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, content)
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        assert storage.health.state == "ok"
    assert texts(path) == ["a"]
    moved = aside(path)
    assert moved.read_bytes() == content
    [said] = [one.message for one in caplog.records if one.levelname == "ERROR"]
    assert f"the database {path} is damaged" in said
    assert f"it was moved to {moved} and a new one begun" in said


async def test_storage_moves_a_damaged_file_aside_with_its_wal(path: Path) -> None:
    await filled(path)
    overwrite_pages(path, 100, 20)
    before = content_of(path)
    path.with_name("gateway.db-wal").write_bytes(b"what was not yet in it")
    async with opened(path):
        assert texts(path) == []
    moved = aside(path)
    assert moved.read_bytes() == before
    assert moved.with_name(f"{moved.name}-wal").exists()


async def test_storage_keeps_every_damaged_file(path: Path) -> None:
    for _ in range(3):
        put(path, b"no database" * 100)
        async with opened(path):
            pass
    assert len(list(path.parent.glob("gateway.db.damaged-*"))) >= 3
    assert is_whole(path)


def test_storage_does_not_move_a_file_that_another_process_just_created(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b"no database" * 100)
    waits = threading.Event()

    def noting(fd: int) -> bool:
        waits.set()
        return locked(fd)

    locked = file._try_lock
    monkeypatch.setattr(file, "_try_lock", noting)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    late = threading.Thread(target=prepare_file, args=(path,))
    late.start()
    assert waits.wait(20)
    path.rename(path.with_name("moved by another"))
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE of_another (number)")
    os.close(folder)
    late.join(20)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM of_another").fetchall() == []
    assert sorted(one.name for one in path.parent.iterdir()) == ["gateway.db", "moved by another"]


async def test_storage_keeps_a_file_wrongly_marked_as_damaged(path: Path) -> None:
    await filled(path, 3)
    mark_damaged(path)
    async with opened(path):
        assert len(texts(path)) == 3
    assert [one.name for one in path.parent.iterdir()] == ["gateway.db"]


async def test_storage_moves_aside_a_marked_file_if_its_check_takes_too_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(path, 20_000, 10)
    monkeypatch.setattr("gateway.storage.sqlite.file.CHECK_TIMEOUT", 0.0)
    async with opened(path):  # not marked: what could be checked was in order
        assert len(texts(path)) == 20_000
    mark_damaged(path)
    monkeypatch.setattr("gateway.storage.sqlite.file.FULL_CHECK_TIMEOUT", 0.0)
    async with opened(path):
        assert texts(path) == []
    assert aside(path).exists()


async def test_storage_keeps_a_wal_without_its_database(path: Path) -> None:
    log = path.with_name("gateway.db-wal")
    log.write_bytes(b"of a database that was deleted")
    async with opened(path):
        assert is_whole(path)
    [moved] = path.parent.glob("gateway.db.damaged-*-wal")
    assert moved.read_bytes() == b"of a database that was deleted"


async def test_storage_open_raises_and_rolls_back_if_a_migration_fails(path: Path) -> None:
    tables = "CREATE TABLE half (number); CREATE TABLE wrong ("
    broken = Migrations("broken", (Migration("create", tables),))
    for _ in range(2):
        storage = Storage(Config(storage=StorageSettings(path=str(path))), [NOTES, broken])
        with pytest.raises(StorageError):
            await storage.open()
        await storage.close()
        assert (threads(), descriptors(path.parent)) == ([], [])
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchall() == [(0,)]


def test_storage_keeps_the_mode_and_content_of_an_existing_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE of_another (number)")
    path.chmod(0o640)
    prepare_file(path)
    open_for_writing(path, "process", [NOTES]).close()
    assert path.stat().st_mode & 0o777 == 0o640
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM of_another").fetchall() == []


async def ran(command: str, wrap: tuple[str, ...] = ()) -> str:
    """What the process says was wrong with the file, after it has checked all else itself."""
    arguments = (*wrap, "sh", "-c", command)
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    reason: str = json.loads(out)
    return reason


def namespace(*flags: str) -> tuple[str, ...]:
    """A command that gives its child a namespace of its own; the test is skipped without one."""
    command = ("unshare", *flags)
    found = shutil.which("unshare")
    if found is None or subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("namespaces cannot be made here")
    return command


async def test_storage_recovers_from_a_full_disk(tmp_path: Path) -> None:
    wrap = namespace("--user", "--map-root-user", "--mount")
    mount = f"mount -t tmpfs -o size=800k tmpfs {tmp_path}"
    assert (await ran(f"{mount} && {PYTHON} fill {tmp_path}/gateway.db", wrap)).startswith(FULL)


async def test_storage_recovers_from_a_file_size_limit(path: Path) -> None:
    assert (await ran(f"{PYTHON} limit {path}")).startswith(FULL)


async def test_storage_recovers_from_a_read_only_file_at_start(path: Path) -> None:
    assert (await ran(f"{PYTHON} protect {path}", unprivileged())).startswith(
        ("the database file is read-only", "the database file cannot be opened")
    )


async def test_storage_recovers_from_a_read_only_folder_at_start(path: Path) -> None:
    said = await ran(f"{PYTHON} forbid {path}", unprivileged())
    assert said.startswith("the database file cannot be opened")


def unprivileged() -> tuple[str, ...]:
    """Root may write everything, except in a namespace where it is nobody."""
    return namespace("--user") if os.geteuid() == 0 else ()
