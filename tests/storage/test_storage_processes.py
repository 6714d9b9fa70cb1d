"""Several processes share one file, and one of them is killed."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest
from support.paths import SUPPORT
from support.records.storage_sinks import Notes, is_whole, opened, put, texts

SCRIPT = str(SUPPORT / "records" / "storage_process.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


async def started(path: Path, name: str, count: int) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, SCRIPT, "write", str(path), name, str(count), stdout=PIPE, stderr=PIPE
    )


async def said(process: Process) -> list[str]:
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()[1:]


BROKEN = pytest.param(b"no database" * 1_000, marks=pytest.mark.slow)


@pytest.mark.parametrize("before", [None, BROKEN])
async def test_storage_opened_by_eight_processes_at_once_loses_nothing(
    path: Path, before: bytes | None
) -> None:
    if before is not None:
        put(path, before)
    processes = [await started(path, str(number), 10) for number in range(8)]
    acknowledged = [await said(one) for one in processes]
    assert sorted(texts(path)) == sorted(text for one in acknowledged for text in one)
    assert len(texts(path)) == 80
    moved = list(path.parent.glob("gateway.db.damaged-*"))
    assert [one.read_bytes() for one in moved] == ([before] if before is not None else [])
    assert is_whole(path)


async def test_storage_shares_a_file_between_two_writing_processes(path: Path) -> None:
    notes = Notes()
    async with opened(path, commit_timeout=60) as storage:
        other = await started(path, "theirs", 200)
        ours = [f"ours.{number}" for number in range(200)]
        for text in ours:
            await storage.commit(notes.entries(text))
        theirs = await said(other)
        found = await storage.read(lambda db: list(db.select("SELECT text FROM notes")))
        assert storage.health.state == "ok"
    assert sorted(text for (text,) in found) == sorted(ours + theirs)
    assert [text for (text,) in found if text.startswith("theirs")] == theirs


@pytest.mark.parametrize("commits", [0, 1, 7, 40, 150])
async def test_storage_keeps_acknowledged_commits_after_kill_9(path: Path, commits: int) -> None:
    process = await started(path, "a", 1_000_000)
    assert process.stdout is not None
    for _ in range(commits + 1):
        await process.stdout.readline()
    process.kill()
    out, _ = await process.communicate()
    acknowledged = commits + out.count(b"\n")
    assert is_whole(path)
    found = texts(path)
    assert found == [f"a.{number}" for number in range(len(found))]
    assert acknowledged <= len(found) <= acknowledged + 1
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("after"))
        assert texts(path) == [*found, "after"]
    assert [one.name for one in path.parent.iterdir()] == ["gateway.db"]
