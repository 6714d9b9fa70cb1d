"""The process that installs leaves nothing behind, however its installation ends."""

import asyncio
from pathlib import Path

from gateway_plugins.uploads.installing.messages import Job
from gateway_plugins.uploads.installing.process import install
from support.runtime.small_engines import descriptors, zombies


def job(folder: Path) -> Job:
    return Job(
        id="x",
        model="org/tiny",
        owner="a",
        replaces="",
        files=(str(folder / "missing"),),
        lock=str(folder / "x.lock"),
        cache=str(folder / "cache"),
        filename="",
        expected="",
        max_ratio=10.0,
        max_unpacked_bytes=10,
        max_members=10,
        keep_free=0,
    )


async def test_install_that_is_cancelled_while_it_ends_its_process_ends_it(tmp_path: Path) -> None:
    before = descriptors()
    installing = asyncio.create_task(install(job(tmp_path), 60, lambda _: None))
    for _ in range(4):
        await asyncio.sleep(0)
        installing.cancel()
    await asyncio.wait([installing])
    assert installing.cancelled()
    assert (descriptors(), zombies()) == (before, [])
