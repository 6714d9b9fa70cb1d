"""Another file comes to the place of the database while the gateway uses it, such as a backup."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from support.plugins.recording_plugin import until
from support.records.storage_sinks import Notes, is_whole, opened, overwrite_pages, texts

from gateway import Gateway
from gateway.config import StorageSettings
from gateway.storage import Storage, StorageUnavailable
from gateway.testing import GatewayFor

ALL = "SELECT text FROM notes ORDER BY number"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.storage.commit_queue.RETRY_DELAY", 0.02)


@pytest.fixture
async def storage(path: Path) -> AsyncIterator[Storage]:
    async with opened(path) as found:
        yield found


def backed_up(path: Path) -> Path:
    backup = path.with_name("backup.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    return backup


async def commit(storage: Storage, *some: str) -> None:
    await storage.commit(Notes().entries(*some))


async def read(storage: Storage) -> list[str]:
    return await storage.read(lambda db: [str(text) for (text,) in db.select(ALL)])


async def recovered(storage: Storage) -> None:
    await until(lambda: storage.health.state == "ok")
    await storage.flush()


def large(name: str) -> list[str]:
    return [f"{name} {number} " + "x" * 2_000 for number in range(400)]


@pytest.mark.parametrize("reads_first", [True, False])
async def test_log_of_the_file_before_is_never_applied_to_a_restored_backup(
    storage: Storage, path: Path, reads_first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await commit(storage, "saved")
    backup = backed_up(path)
    for number in range(3):  # the log holds many pages that the backup does not know
        await commit(storage, *large(f"lost {number}"))
    assert len(await read(storage)) == 1_201
    backup.replace(path)
    if reads_first:
        assert await read(storage) == ["saved"]
    await commit(storage, "later")
    await recovered(storage)
    assert await read(storage) == ["saved", "later"]
    assert is_whole(path)
    assert "was replaced by another file" in caplog.text
    [aside] = path.parent.glob("gateway.db.replaced-*-wal")
    assert aside.stat().st_size > 100_000


async def test_log_that_comes_with_the_restored_file_is_kept(storage: Storage, path: Path) -> None:
    await commit(storage, "before")
    other = path.with_name("other.db")
    async with opened(other) as elsewhere:
        await commit(elsewhere, "in its log")
        for suffix in ("-wal", "-shm", ""):
            copy = path.with_name("copy" + suffix)
            copy.write_bytes(other.with_name("other.db" + suffix).read_bytes())
            if suffix != "-shm":
                copy.replace(path.with_name(path.name + suffix))
            else:
                path.with_name(path.name + suffix).unlink()
    assert await read(storage) == ["in its log"]
    assert not list(path.parent.glob("*.replaced-*-wal"))


async def test_gateways_of_several_processes_follow_a_restored_backup(path: Path) -> None:
    async with AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(opened(path)) for _ in range(3)]
        await commit(all_of_them[0], "saved")
        backup = backed_up(path)
        for storage in all_of_them:
            await commit(storage, *large("lost"))
        backup.replace(path)
        for number, storage in enumerate(all_of_them):
            await commit(storage, f"later {number}")
            await recovered(storage)
        for storage in all_of_them:
            assert await read(storage) == ["saved", "later 0", "later 1", "later 2"]
    assert is_whole(path)
    assert len(texts(path)) == 4
    assert len(list(path.parent.glob("*.replaced-*-wal"))) == 1


async def test_tables_exist_in_a_restored_file_before_it_is_read(
    storage: Storage, path: Path
) -> None:
    await commit(storage, "before")
    path.with_name("empty").touch()
    path.with_name("empty").replace(path)
    assert await read(storage) == []


async def test_health_is_not_ok_while_traces_cannot_be_read(
    gateway_for: GatewayFor, path: Path
) -> None:
    async with opened(path) as other:
        await commit(other, *large("filling"))
    live = await gateway_for("sessions", "trace_capture", storage=StorageSettings(path=str(path)))
    gateway: Gateway = live.gateway
    assert (await live.client.get("/health")).json() == {"status": "ok"}
    overwrite_pages(path, 20, 40)
    with pytest.raises(StorageUnavailable):
        await gateway.storage.read(lambda db: list(db.select("SELECT max(text) FROM notes")))
    await gateway.storage.read(lambda db: list(db.select("SELECT 1")))
    health = (await live.client.get("/health")).json()
    assert health["status"] == "degraded"
    assert "traces and usage cannot be read: the database file is damaged" in health["reason"]
    path.with_name("empty").touch()
    path.with_name("empty").replace(path)
    assert (await live.client.get("/sessions")).json() == []
    assert (await live.client.get("/health")).json() == {"status": "ok"}


@pytest.mark.parametrize("how", ["garbage", "no folder", "no target"])
async def test_health_of_an_idle_gateway_knows_that_its_file_is_gone(
    gateway_for: GatewayFor, path: Path, how: str
) -> None:
    home = path.with_name("home")
    home.mkdir()
    path = home / path.name
    live = await gateway_for("sessions", "trace_capture", storage=StorageSettings(path=str(path)))
    assert (await live.client.get("/health")).json() == {"status": "ok"}
    if how == "garbage":
        path.with_name("new").write_bytes(b"no database" * 1_000)
        path.with_name("new").replace(path)
    elif how == "no target":
        path.with_name("new").symlink_to(path.with_name("nowhere") / "x")
        path.with_name("new").replace(path)
    else:
        home.rename(home.with_name("away"))
    health = (await live.client.get("/health")).json()
    assert health["status"] == "degraded"
    assert "traces and usage cannot be read" in health["reason"]
    home.mkdir(exist_ok=True)
    path.with_name("empty").touch()
    path.with_name("empty").replace(path)
    assert (await live.client.get("/sessions")).json() == []
    assert (await live.client.get("/health")).json() == {"status": "ok"}
