"""A process of its own that uses a storage: `storage_process.py ACTION PATH ...`; prints JSON."""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run as a file, and imports `support`

from support.plugins.recording_plugin import until
from support.records.storage_sinks import Notes, opened, texts

from gateway.storage import Storage

SIZE = 10_000


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def modes(file: int | None, path: Path, folder: int) -> None:
    path.parent.chmod(0o700)
    if file is not None:
        path.chmod(file)
    path.parent.chmod(folder)


async def write(path: Path, name: str, count: str) -> None:
    """Say each text once it is committed, after a line that says that the file is open."""
    notes = Notes()
    async with opened(path, commit_timeout=60) as storage:
        assert storage.health.state == "ok"
        say("open")
        for number in range(int(count)):
            await storage.commit(notes.entries(f"{name}.{number}"))
            say(f"{name}.{number}")


async def fill(path: Path) -> None:
    """Until the disk is full; there is room again when the ballast is gone."""
    ballast = path.with_name("ballast")
    ballast.write_bytes(b"x" * 30 * SIZE)
    await fail(path, ballast.unlink)


async def limit(path: Path) -> None:
    """Until the file may not grow any more."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * SIZE, most))
    await fail(path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))


async def fail(path: Path, repair: Callable[[], object]) -> None:
    notes, given = Notes(), 0
    async with opened(path) as storage:
        while storage.health.state == "ok":
            given += 1
            await storage.commit(notes.entries(text_of(given)))
        reason = storage.health.reason
        for _ in range(3):
            given += 1
            await storage.commit(notes.entries(text_of(given)))
        assert storage.health.waiting == 4
        repair()
        await back(storage)
    assert notes.lost_ones == []
    assert texts(path) == [text_of(number) for number in range(1, given + 1)]
    say(json.dumps(reason))


def text_of(number: int) -> str:
    return f"{number}".rjust(SIZE)


async def back(storage: Storage) -> None:
    await until(lambda: storage.health.state == "ok")
    await storage.flush()


async def protect(path: Path) -> None:
    """The file and its folder may not be written when it is opened."""
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("before"))
    modes(0o400, path, 0o500)
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        reason = storage.health.reason
        modes(0o600, path, 0o700)
        await back(storage)
    assert texts(path) == ["before", "a"]
    say(json.dumps(reason))


async def forbid(path: Path) -> None:
    """There may be no file in the folder."""
    modes(None, path, 0o500)
    notes = Notes()
    async with opened(path) as storage:
        await storage.commit(notes.entries("a"))
        reason = storage.health.reason
        modes(None, path, 0o700)
        await back(storage)
    assert texts(path) == ["a"]
    say(json.dumps(reason))


if __name__ == "__main__":
    actions = {one.__name__: one for one in (write, fill, limit, protect, forbid)}
    os.umask(0o022)
    asyncio.run(actions[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]))
