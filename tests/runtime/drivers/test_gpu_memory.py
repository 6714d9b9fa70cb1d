"""Fault 6.11: GPU memory is freed before the next start, as far as nvidia-smi tells."""

import asyncio
import os
from pathlib import Path
from time import monotonic

import pytest
from gateway_plugins.runtime.drivers.machine import gpu_memory
from gateway_plugins.runtime.drivers.machine.gpu_memory import GpuMemory
from gateway_plugins.runtime.drivers.process import ProcessDriver
from support.runtime.small_engines import Printed, descriptors, launch, zombies

pytestmark = pytest.mark.slow

LEADER = "say('leader', os.getpid()); stay()"


class FakeSmi:
    """A program nvidia-smi that answers what its files say; `asked` counts its answers."""

    def __init__(self, folder: Path) -> None:
        self.path = f"{folder}:{os.environ['PATH']}"
        self._folder = folder
        self.answer(memory="0, GPU-aa11, 10\n1, GPU-bb22, 700\n", apps="")
        self.program(
            f'echo x >>{folder}/asked; case "$1" in *gpu=*) cat {folder}/memory;;'
            f" *) cat {folder}/apps;; esac"
        )

    def program(self, text: str) -> None:
        file = self._folder / "nvidia-smi"
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def answer(self, **texts: str) -> None:
        for name, text in texts.items():
            (self._folder / f"{name}.new").write_text(text)
            (self._folder / f"{name}.new").rename(self._folder / name)

    @property
    def asked(self) -> int:
        file = self._folder / "asked"
        return len(file.read_text().split()) if file.exists() else 0


@pytest.fixture
def smi(tmp_path: Path) -> FakeSmi:
    return FakeSmi(tmp_path)


@pytest.mark.parametrize(
    ("devices", "used"),
    [((), 710), (("0",), 10), (("1",), 700), (("GPU-bb",), 700), (("MIG-1",), None)],
)
async def test_the_memory_in_use_is_that_of_the_devices(
    smi: FakeSmi, devices: tuple[str, ...], used: int | None
) -> None:
    assert await GpuMemory(devices, smi.path).used() == used


async def test_without_nvidia_smi_nothing_is_waited_for(tmp_path: Path) -> None:
    memory = GpuMemory((), str(tmp_path))
    assert await memory.used() is None
    async with asyncio.timeout(0.2):
        assert await memory.freed(10, {1})


@pytest.mark.parametrize(
    "text", ["exit 9", "echo no devices were found; exit 6", "printf '\\377,,\\n[N/A], x, [N/A]'"]
)
async def test_an_nvidia_smi_that_tells_nothing_is_not_waited_for(smi: FakeSmi, text: str) -> None:
    smi.program(text)
    memory = GpuMemory((), smi.path)
    assert await memory.used() is None
    async with asyncio.timeout(5):
        assert await memory.freed(10, {1})


async def test_an_nvidia_smi_that_hangs_is_ended(
    smi: FakeSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_memory, "ANSWER", 0.1)
    smi.program("exec sleep 600")
    memory = GpuMemory((), smi.path)
    assert await memory.used() is None
    before = descriptors()
    async with asyncio.timeout(5):
        assert await memory.freed(10, {1})
    assert descriptors() == before
    assert zombies() == []


async def test_memory_of_others_is_not_waited_for_long(
    smi: FakeSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_memory, "SETTLED", 0.3)
    smi.answer(memory="0, GPU-aa11, 50000\n")
    async with asyncio.timeout(5):
        assert await GpuMemory((), smi.path).freed(10, set())


async def test_a_process_that_holds_memory_for_ever_is_given_up(
    smi: FakeSmi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_memory, "LONGEST", 0.4)
    smi.answer(apps="17\n")
    before = monotonic()
    assert not await GpuMemory((), smi.path).freed(None, {17})
    assert monotonic() - before >= 0.4


async def test_fault_6_11_stop_returns_when_the_memory_is_freed(
    smi: FakeSmi, tmp_path: Path
) -> None:
    driver = ProcessDriver(str(tmp_path), {"PATH": smi.path})
    printed = Printed()
    engine = await driver.start(launch(LEADER, devices=("0",)), printed)
    pid = await printed.pid("leader")
    smi.answer(memory="0, GPU-aa11, 9000\n", apps=f"4242\n{pid}\n")
    stopping = asyncio.create_task(engine.stop(0))
    await engine.ended()
    asked = smi.asked
    while smi.asked < asked + 4:  # noqa: ASYNC110  another process
        await asyncio.sleep(0.01)
    assert not stopping.done()
    smi.answer(memory="0, GPU-aa11, 9000\n", apps="4242\n")
    while smi.asked < asked + 8:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert not stopping.done()
    smi.answer(memory="0, GPU-aa11, 12\n")
    async with asyncio.timeout(10):
        await stopping


async def test_fault_6_11_the_next_start_waits_for_memory_of_an_engine_that_died(
    smi: FakeSmi, tmp_path: Path
) -> None:
    driver = ProcessDriver(str(tmp_path), {"PATH": smi.path})
    smi.answer(memory="0, GPU-aa11, 10\n")
    engine = await driver.start(launch("time.sleep(0.1)", devices=("0",)), Printed())
    smi.answer(memory="0, GPU-aa11, 9000\n")
    await engine.ended()
    starting = asyncio.create_task(driver.start(launch(LEADER, devices=("0",)), Printed()))
    asked = smi.asked
    while smi.asked < asked + 4:  # noqa: ASYNC110  another process
        await asyncio.sleep(0.01)
    assert not starting.done()
    smi.answer(memory="0, GPU-aa11, 12\n")
    await (await starting).stop(0)
