"""Disks that are really full: what is told, what is kept, and the model that was there."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.uploads.asking import begun, code, install, offset_of, over, patch, uploading
from support.uploads.models import installed, model, tar, zst
from support.uploads.slow_caller import sending

from gateway.testing import GatewayFor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk"),
]

MIB = 1 << 20
OLD, LARGE = model(b"\1"), model(b"\2", 4 * MIB)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def in_folder(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


async def test_full_disk_of_uploads_keeps_what_has_come(
    gateway_for: GatewayFor, tmp_path: Path, disk: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, files=str(disk / "uploads"))
    assert (await install(live, tar(OLD)))["status"] == "completed"
    data = tar(LARGE)
    path = await begun(live, None, "org/large", **{"upload-defer-length": "1"})
    async with sending(live, path, 0, len(data), data) as caller:
        answer = await caller.answer()
    assert answer.status == 507
    assert b"disk_full" in answer.body
    kept = await offset_of(live, path)
    assert MIB <= kept <= 2 * MIB
    again = await patch(live, path, kept, data[kept : kept + MIB])
    assert code(again) == (507, "disk_full")
    assert installed(tmp_path / "cache", "org/tiny") == OLD
    grow(disk)
    kept = await offset_of(live, path)
    last = await patch(live, path, kept, data[kept:], **{"upload-length": str(len(data))})
    assert last.status_code == 204
    assert (await over(live, path))["status"] == "completed"
    assert installed(tmp_path / "cache", "org/large") == LARGE


async def test_full_disk_of_models_leaves_the_model_that_was_there(
    gateway_for: GatewayFor, tmp_path: Path, disk: Path
) -> None:
    live = await uploading(gateway_for, tmp_path, cache=str(disk))
    assert (await install(live, tar(OLD)))["status"] == "completed"
    for archive in (tar(LARGE), zst(tar(LARGE))):  # known before, and found while it is unpacked
        found = await install(live, archive, overwrite=None)
        assert (found["status"], found["code"]) == ("failed", "disk_full"), found
        assert installed(disk, "org/tiny") == OLD
        assert in_folder(disk) == ["models--org--tiny"]
    grow(disk)
    assert (await install(live, tar(LARGE), overwrite=None))["status"] == "completed"
    assert installed(disk, "org/tiny") == LARGE
