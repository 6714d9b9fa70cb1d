"""Gateways that are killed and started again: uploads go on, whatever state they were in."""

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from gateway_plugins.uploads.life import RECEIVING
from support.callers.raw_client import RawClient
from support.gateways.serving_process import Process, serving
from support.uploads.asking import BYTES, PLUGIN, TUS, metadata
from support.uploads.models import installed, model, tar

CONFIG = """
storage: {{path: {folder}/gateway.db}}
plugins:
  - {plugin}: {{cache: {folder}/cache, keep_free_gb: 0}}
"""
MODEL = model(size=3_000_000)
ARCHIVE = tar(MODEL)


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, **settings: str
) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    config = folder / "gateway.yaml"
    config.write_text(CONFIG.format(folder=folder, plugin=PLUGIN))
    async with serving("http://127.0.0.1:9", "--config", str(config), **settings) as process:
        async with httpx.AsyncClient(base_url=process.url, timeout=60) as client:
            yield process, client


async def created(client: httpx.AsyncClient, model_name: str) -> str:
    pairs = metadata(model_name=model_name)
    given = {**TUS, "upload-length": str(len(ARCHIVE)), "upload-metadata": pairs}
    answer = await client.post("/upload", headers=given)
    assert answer.status_code == 201
    return f"/{answer.headers['location']}"


def file_of(folder: Path, path: str) -> Path:
    return folder / "gateway.db-uploads" / path.rpartition("/")[2]


async def begin_to_send(caller: RawClient, path: str, file: Path, **more: str) -> None:
    """Send two thirds of the archive, and wait for a part of that on the disk."""
    lines = {**BYTES, "upload-offset": "0", "content-length": str(len(ARCHIVE)), **more}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    await caller.send(f"PATCH {path} HTTP/1.1\r\nhost: a\r\n{head}\r\n".encode())
    await caller.send(ARCHIVE[:2_000_000])
    await asyncio.to_thread(_wait_for, file, 1 << 20)


def _wait_for(file: Path, size: int) -> None:
    """Wait until a file is as large as that."""
    while file.stat().st_size < size:
        time.sleep(0.01)


async def test_fault_9_10_killed_while_bytes_come(tmp_path: Path) -> None:
    """Those of a PATCH with a checksum do not count, and what is nobody's is removed."""
    async with gateway(tmp_path) as (process, client):
        path, checked = await created(client, "org/tiny"), await created(client, "org/other")
        async with process.client() as one, process.client() as other:
            await begin_to_send(one, path, file_of(tmp_path, path))
            checksum = {"upload-checksum": "crc32 AAAAAA=="}
            await begin_to_send(other, checked, file_of(tmp_path, checked), **checksum)
            process.kill(signal.SIGKILL)
            await process.ended()
    orphan, rubble = file_of(tmp_path, "e" * 32), tmp_path / "cache/.uploading-x"
    orphan.write_bytes(b"nobody's")
    rubble.mkdir(parents=True)
    async with gateway(tmp_path) as (process, client):
        assert not orphan.exists()
        assert not rubble.exists()
        assert (await client.head(checked, headers=TUS)).headers["upload-offset"] == "0"
        offset = int((await client.head(path, headers=TUS)).headers["upload-offset"])
        assert 1 << 20 <= offset <= 2_000_000
        given = {**BYTES, "upload-offset": str(offset)}
        last = await client.patch(path, headers=given, content=ARCHIVE[offset:])
        assert last.status_code == 204
        done = (await client.get(path, params={"wait": 30})).json()
    assert done["status"] == "completed"
    assert installed(tmp_path / "cache", "org/tiny") == MODEL


async def test_killed_once_the_last_byte_has_come(tmp_path: Path) -> None:
    """Before that is noted, while the upload is verified, and while it is installed."""
    paths: dict[str, str] = {}
    async with gateway(tmp_path) as (process, client):
        for state in ("uploading", "verifying", "installing"):
            paths[state] = path = await created(client, state)
            given = {**BYTES, "upload-offset": "0"}
            await client.patch(path, headers=given, content=ARCHIVE[:-1])
        process.kill(signal.SIGKILL)
        await process.ended()
    for state, path in paths.items():
        leave(tmp_path, state, path)
    async with gateway(tmp_path) as (process, client):
        for state, path in paths.items():
            done = (await client.get(path, params={"wait": 30})).json()
            assert done["status"] == "completed", (state, done)
            assert installed(tmp_path / "cache", state) == MODEL
    assert all(one.name.startswith("models--") for one in (tmp_path / "cache").iterdir())
    assert [one.name for one in (tmp_path / "gateway.db-uploads").iterdir()] == [RECEIVING]


def leave(folder: Path, state: str, path: str) -> None:
    """Leave what a gateway leaves that is killed in a state."""
    file = file_of(folder, path)
    with file.open("ab") as content:
        content.write(ARCHIVE[-1:])
    if state == "uploading":
        return
    with contextlib.closing(sqlite3.connect(folder / "gateway.db")) as database:
        update = "UPDATE uploads SET status = ?, received = ? WHERE id = ?"
        database.execute(update, (state, len(ARCHIVE), file.name))
        database.commit()
    if state == "installing":
        staging = folder / "cache" / f".uploading-{file.name}" / "tiny"
        staging.mkdir(parents=True)
        (staging / "config.json").write_text("half of it")


async def test_processes_hand_an_upload_over(tmp_path: Path) -> None:
    """Whichever process gets the next request, the request before gives way at once."""
    async with gateway(tmp_path, processes="2") as (process, client):
        path = await created(client, "org/tiny")
        async with process.client() as dead:
            await begin_to_send(dead, path, file_of(tmp_path, path))
            for _ in range(6):  # each on a connection of its own, so in any of the processes
                async with httpx.AsyncClient(base_url=process.url, timeout=60) as another:
                    answer = await another.head(path, headers=TUS)
                    offset = int(answer.headers["upload-offset"])
            given = {**BYTES, "upload-offset": str(offset)}
            last = await client.patch(path, headers=given, content=ARCHIVE[offset:])
            assert last.status_code == 204
            assert await dead.reader.read() == b""
        done = (await client.get(path, params={"wait": 30})).json()
    assert done["status"] == "completed"
