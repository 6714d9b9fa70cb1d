"""The folder of files: what survives its process, and what ended processes have left."""

import asyncio
import signal
from pathlib import Path

import pytest
from gateway_plugins.batch.files import rows
from gateway_plugins.batch.files.folder import LOCK, PART, Folder, file_id
from support.batch.files import PURPOSE, client_of, file_part, files_of, with_length, written
from support.callers.raw_client import head_of
from support.gateways.serving_process import PATIENCE, serving

from gateway import ConfigError, Storage
from gateway.testing import GatewayFor, entry


def named(folder: Path, ending: str) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ending]


async def test_file_outlives_the_gateway(gateway_for: GatewayFor, tmp_path: Path) -> None:
    storage = {"path": str(tmp_path / "gateway.db")}
    live = await gateway_for("batch", storage=storage)
    async with client_of(live) as client:
        made = await client.files.create(file=b"content", purpose="batch")
    assert (tmp_path / "gateway.db-files" / made.id).read_bytes() == b"content"
    again = await gateway_for("batch", storage=storage)
    async with client_of(again) as client:
        assert await client.files.retrieve(made.id) == made
        assert (await client.files.content(made.id)).content == b"content"


async def test_folder_is_for_its_user_alone(gateway_for: GatewayFor, tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    live = await gateway_for(entry("batch", files=str(folder)))
    async with client_of(live) as client:
        made = await client.files.create(file=b"content", purpose="batch")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / made.id).stat().st_mode & 0o777 == 0o600


async def test_gateway_does_not_start_without_a_folder(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"batch\.files: there can be no folder .*file"):
        await gateway_for(entry("batch", files=str(tmp_path / "file")))


async def test_parts_of_a_killed_process_are_deleted_at_the_next_start(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    folder = tmp_path / "gateway.db-files"
    arguments = ("http://127.0.0.1:9", "--plugin", "batch")
    async with serving(*arguments, storage__path=str(database)) as process:
        async with process.client() as client:
            await client.send(head_of("POST", "/v1/files", with_length(1 << 20)))
            await client.send(written(PURPOSE) + written(file_part(b"x"))[:-2])
            async with asyncio.timeout(PATIENCE):
                while not named(folder, PART):  # noqa: ASYNC110  another process makes it
                    await asyncio.sleep(0.01)
            process.kill(signal.SIGKILL)
            await process.ended()
    assert (len(named(folder, PART)), len(named(folder, LOCK))) == (1, 1)
    Folder(folder).delete_leftovers()
    assert (named(folder, PART), len(named(folder, LOCK))) == ([], 1)


def test_parts_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    living, other = Folder(tmp_path), Folder(tmp_path)
    part = living.part()
    part.write_bytes(b"x")
    (tmp_path / f"gone-1{PART}").write_bytes(b"x")
    (tmp_path / f"gone{LOCK}").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"x")
    other.delete_leftovers()
    assert sorted(named(tmp_path, PART)) == [part]
    assert len(named(tmp_path, LOCK)) == 2
    assert (tmp_path / "notes.txt").exists()
    living.close()
    other.delete_leftovers()
    assert named(tmp_path, PART) == []
    other.close()
    assert named(tmp_path, LOCK) == []


def test_ids_sort_by_time() -> None:
    ids = [file_id() for _ in range(100)]
    assert ids == sorted(ids)
    assert len({*ids}) == 100


async def test_row_whose_content_never_came_is_cleaned_up(gateway_for: GatewayFor) -> None:
    """As of a process that was killed between the two: nobody sees it, and later it goes."""
    live = await gateway_for("batch")
    files, storage = files_of(live), live.gateway.storage
    async with client_of(live) as client:
        made = await client.files.create(file=b"content", purpose="batch")
        path = files.folder.content(made.id)
        await _set(storage, made.id, made.created_at + 3_600)
        assert (await client.files.list()).data == []
        await files.clean()
        assert path.exists()
        await _set(storage, made.id, made.created_at - 1)
        await files.clean()
        assert not path.exists()


async def test_content_stays_while_a_batch_reads_it(gateway_for: GatewayFor) -> None:
    live = await gateway_for("batch")
    files, storage = files_of(live), live.gateway.storage
    async with client_of(live) as client:
        made = await client.files.create(file=b"content", purpose="batch")
        path = files.folder.content(made.id)
        await storage.write(lambda db: rows.hold(db, made.id))
        await client.files.delete(made.id)
        await files.clean()
        assert path.exists()
        assert await storage.write(lambda db: rows.release(db, made.id))
        await files.clean()
        assert not path.exists()


async def _set(storage: Storage, file_id: str, expires: float) -> None:
    """Make the row as it is before its content is in place."""
    statement = "UPDATE batch_files SET deleted = 1, expires = :at WHERE id = :id"
    await storage.write(lambda db: db.execute(statement, {"id": file_id, "at": expires}))
