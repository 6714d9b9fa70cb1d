"""Programs that a test starts as engines: small, quick to start, and as disobedient as needed."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from gateway_plugins.runtime.drivers.driver import Launch
from gateway_plugins.runtime.drivers.machine.processes import alive
from support.ports import free_port

FORK = """
import os, signal, sys, time
def say(*words): os.write(1, (' '.join(map(str, words)) + '\\n').encode())
def child(run):
    pid = os.fork()
    if not pid:
        run()
        os._exit(0)
    return pid
def stay(): time.sleep(600)
"""
"""The beginning of each program."""


def launch(
    program: str | tuple[str, ...],
    *,
    environment: Mapping[str, str] | None = None,
    devices: tuple[str, ...] = (),
    port: int | None = None,
    generation: int = 1,
    runtime: str = "gpu",
) -> Launch:
    """A start of a Python program, given as text, or of a command."""
    if isinstance(program, str):
        program = (sys.executable, "-I", "-S", "-c", FORK + program)
    return Launch(
        generation=generation,
        runtime=runtime,
        model="m",
        command=program,
        environment=environment or {},
        host="127.0.0.1",
        port=port or free_port(),
        devices=devices,
    )


class Printed:
    """Gets what an engine prints."""

    def __init__(self) -> None:
        self.data = b""
        self._came = asyncio.Event()

    def __call__(self, data: bytes) -> None:
        self.data += data
        self._came.set()

    async def line(self, begin: str) -> str:
        """Wait for a whole line that begins so, and return what follows."""
        async with asyncio.timeout(20):
            while True:
                self._came.clear()
                whole = self.data.decode().split("\n")[:-1]
                for line in whole:
                    if line.startswith(begin):
                        return line.removeprefix(begin).strip()
                await self._came.wait()

    async def pid(self, name: str) -> int:
        return int(await self.line(name))


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(20):
        while alive(pid):  # noqa: ASYNC110  a stranger's end is no event
            await asyncio.sleep(0.01)


def zombies() -> list[int]:
    """Children of this process that have ended and were not asked how."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                text = Path(entry.path, "stat").read_text()
            except OSError:
                continue
            state, parent = text.rpartition(")")[2].split()[:2]
            if state == "Z" and int(parent) == os.getpid():
                found.append(int(entry.name))
    return found


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
