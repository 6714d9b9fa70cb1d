"""States of uploads, their ends, and whose they are."""

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway_plugins.uploads.installing.conductor import Conductor
from gateway_plugins.uploads.plugin import ModelUploads
from support.uploads.asking import (
    BYTES,
    TUS,
    begun,
    code,
    head,
    install,
    metadata,
    over,
    patch,
    uploading,
    with_badges,
)
from support.uploads.models import installed, model, tar
from support.uploads.slow_caller import sending, stored

from gateway.testing import GatewayFor, Live

ARCHIVE = tar(model())


@contextmanager
def held(live: Live, path: str) -> Iterator[None]:
    """Hold up the process that verifies an upload."""
    folder = live.plugin(ModelUploads).uploads().folder.path
    fd = os.open(folder / f"{path.rpartition('/')[2]}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def conductor(live: Live) -> Conductor:
    found = live.plugin(ModelUploads)._conductor
    assert found is not None
    return found


async def test_fault_9_6_states_are_shown_by_get_head_and_the_last_patch(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, len(ARCHIVE))
    with held(live, path):
        first = await patch(live, path, 0, ARCHIVE[:100])
        assert first.headers["x-upload-status"] == "uploading"
        shown = (await live.client.get(path)).json()
        assert (shown["status"], shown["progress"]) == ("uploading", 100 / len(ARCHIVE))
        last = await patch(live, path, 100, ARCHIVE[100:])
        assert (last.status_code, last.headers["x-upload-status"]) == (204, "verifying")
        assert (await head(live, path)).headers["x-upload-status"] == "verifying"
        assert (await live.client.get(path)).json()["status"] == "verifying"
        assert code(await live.client.delete(path, headers=TUS)) == (409, "upload_is_installed")
    done = await over(live, path)
    assert (done["status"], done["progress"], done["error"]) == ("completed", 1.0, None)
    assert (await head(live, path)).headers["x-upload-status"] == "completed"


async def test_fault_9_6_wrong_digest_is_told(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    found = await install(live, ARCHIVE, sha256="0" * 64)
    assert (found["status"], found["code"]) == ("failed", "wrong_sha256")
    assert "0" * 64 in found["error"]
    path = f"/upload/{found['id']}"
    gone = await head(live, path)
    assert (gone.status_code, gone.headers["tus-resumable"]) == (410, "1.0.0")
    assert code(await patch(live, path, 0, b"x")) == (410, "upload_failed")
    assert not list((tmp_path / "cache").glob("*"))


async def test_fault_9_3_finished_upload_has_its_length(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    found = await install(live, ARCHIVE, sha256=None)
    assert found["sha256"] is not None
    path = f"/upload/{found['id']}"
    answer = await head(live, path)
    size = str(len(ARCHIVE))
    assert (answer.headers["upload-offset"], answer.headers["upload-length"]) == (size, size)
    again = await patch(live, path, len(ARCHIVE), b"")
    assert (again.status_code, again.headers["upload-offset"]) == (204, size)
    assert (await patch(live, path, 0, b"x")).status_code == 409
    assert (await live.client.delete(path, headers=TUS)).status_code == 204
    assert installed(tmp_path / "cache", "org/tiny") == model()


async def test_fault_9_4_a_process_of_low_priority_installs(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    path = await begun(live, len(ARCHIVE))
    with held(live, path):
        await patch(live, path, 0, ARCHIVE)
        pid = await asyncio.to_thread(one_that_installs)
        assert b"HOME=" not in environment_of(pid)
    assert (await over(live, path))["status"] == "completed"


def one_that_installs() -> int:
    """Wait for a process that installs, and has a low priority."""
    while True:
        for pid in installing_processes():
            if os.getpriority(os.PRIO_PROCESS, pid) == 19:
                return pid
        time.sleep(0.01)


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def installing_processes() -> Iterator[int]:
    """The children of this process that install."""
    of_threads = Path("/proc/self/task").glob("*/children")
    for child in " ".join(file.read_text() for file in of_threads).split():
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"gateway_plugins.uploads.installing.program" in command:
            yield int(child)


async def test_fault_9_10_expiry_slides_and_then_ends_the_upload(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, expires=0.5, keep_results=0.2)
    uploads = live.plugin(ModelUploads).uploads()
    path = await begun(live, 10)
    first = (await live.client.get(path)).json()["expires_at"]
    answer = await patch(live, path, 0, b"abc")
    assert "upload-expires" in answer.headers
    later = (await live.client.get(path)).json()["expires_at"]
    assert later > first
    await conductor(live).clean_once()
    assert (await head(live, path)).status_code == 200
    await asyncio.sleep(later - time.time() + 0.01)
    await conductor(live).clean_once()
    assert (await head(live, path)).status_code == 410
    shown = (await live.client.get(path)).json()
    assert shown["status"] == "expired"
    assert "uploads.expires" in shown["error"]
    assert uploads.folder.all() == []
    await asyncio.sleep(shown["expires_at"] - time.time() + 0.01)
    await conductor(live).clean_once()
    assert (await head(live, path)).status_code == 404


async def test_fault_9_10_what_is_received_now_does_not_expire(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, expires=0.01)
    path = await begun(live, 2 << 20)
    async with sending(live, path, 0, 2 << 20, bytes(1 << 20)) as caller:
        await stored(live, path, 1 << 20)
        await conductor(live).clean_once()
        await caller.send(bytes(1 << 20))
        assert (await caller.answer()).status == 204


async def test_fault_9_9_no_room_is_told_before_a_byte_comes(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, keep_free_gb=1e9)
    given = {**TUS, **BYTES, "upload-length": "5", "upload-metadata": metadata(model_name="a")}
    answer = await live.client.post("/upload", headers=given, content=b"hello")
    assert code(answer) == (507, "disk_full")
    assert live.plugin(ModelUploads).uploads().folder.all() == []


async def test_uploads_of_other_keys_are_not_there(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await with_badges(gateway_for, tmp_path)
    alice, bob = {"authorization": "alice upload"}, {"authorization": "bob upload"}
    admin = {"authorization": "root admin"}
    path = await begun(live, 10, **alice)
    for method in ("HEAD", "GET", "PATCH", "DELETE"):
        headers = {**BYTES, "upload-offset": "0"}
        answer = await live.client.request(method, path, headers={**headers, **bob})
        assert answer.status_code == 404, method
        nobody = await live.client.request(method, path, headers=headers)
        assert nobody.status_code == 401, method
        assert nobody.headers["tus-resumable"] == "1.0.0"
        of_another = {**headers, "authorization": "carol realtime"}
        assert (await live.client.request(method, path, headers=of_another)).status_code == 403
    assert (await head(live, path, **admin)).status_code == 200
    assert (await patch(live, path, 0, b"abc", **alice)).headers["upload-offset"] == "3"
    assert (await live.client.options(path)).status_code == 204
    bound = {"authorization": "dora upload models=other"}
    named = {"upload-metadata": metadata(model_name="org/tiny"), "upload-length": "1"}
    answer = await live.client.post("/upload", headers={**TUS, **named, **bound})
    assert code(answer) == (403, "model_not_allowed")


async def test_parts_are_joined_in_the_order_of_the_final_upload(
    gateway_for: GatewayFor, tmp_path: Path
) -> None:
    live = await uploading(gateway_for, tmp_path)
    pieces = [ARCHIVE[:1000], ARCHIVE[1000:1001], ARCHIVE[1001:]]
    partial = {"upload-concat": "partial"}
    paths = [await begun(live, len(piece), None, **partial) for piece in pieces]
    for path, piece in list(zip(paths, pieces, strict=True))[:2]:
        answer = await patch(live, path, 0, piece, **partial)
        assert answer.headers["x-upload-status"] == "completed"
    concat = "final;" + " ".join([f"{live.url}{paths[0]}", paths[1], paths[2].removeprefix("/")])
    given = {**TUS, "upload-concat": concat, "upload-metadata": metadata(model_name="org/tiny")}
    unfinished = await live.client.post("/upload", headers=given)
    assert code(unfinished) == (400, "invalid_request")
    assert "not finished" in unfinished.text
    await patch(live, paths[2], 0, pieces[2], **partial)
    answer = await live.client.post("/upload", headers=given)
    assert answer.status_code == 201
    again = await live.client.post("/upload", headers=given)
    assert again.headers["location"] == answer.headers["location"]
    final = f"/{answer.headers['location']}"
    shown = await head(live, final)
    assert shown.headers["upload-concat"] == concat
    assert shown.headers["upload-length"] == str(len(ARCHIVE))
    assert code(await patch(live, final, 0, b"x")) == (403, "final_upload")
    assert (await over(live, final))["status"] == "completed"
    assert installed(tmp_path / "cache", "org/tiny") == model()
    assert (await head(live, paths[0])).headers["upload-offset"] == "1000"
    other = {**given, "upload-metadata": metadata(model_name="org/other")}
    assert "part of another" in (await live.client.post("/upload", headers=other)).text
    assert live.plugin(ModelUploads).uploads().folder.all() == []


async def test_metrics_count_bytes_and_ends(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path, "metrics")
    await install(live, ARCHIVE)
    text = (await live.client.get("/metrics")).text
    assert f"llm_upload_bytes_total {float(len(ARCHIVE))}" in text
    assert 'gateway_uploads_ended_total{status="completed"} 1.0' in text
