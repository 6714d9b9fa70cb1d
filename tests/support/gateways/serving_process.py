"""A real `gateway serve`, in a process of its own."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from support.callers.raw_client import RawClient

PATIENCE = 60.0
"""Seconds after which a process is taken to hang."""

COMMAND = (sys.executable, "-c", "from gateway.cli import main; main()")
LISTENS = re.compile(rb"http://([0-9.]+):(\d+)")


class Process:
    """`address` is where it listens; `log` is all that it has said on standard error so far."""

    def __init__(self, running: asyncio.subprocess.Process) -> None:
        self.address = ("", 0)
        self.log = b""
        self._running = running

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    @property
    def pid(self) -> int:
        return self._running.pid

    def client(self) -> RawClient:
        return RawClient(*self.address)

    def kill(self, signal: int) -> None:
        self._running.send_signal(signal)

    async def says(self, wanted: re.Pattern[bytes]) -> re.Match[bytes]:
        """Read its log up to what is wanted. Raises EOFError where it ends before."""
        stderr = self._running.stderr
        assert stderr is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                found = wanted.search(self.log)
                if found is not None:
                    return found
                line = await stderr.readline()
                if not line:
                    raise EOFError(self.log.decode())
                self.log += line

    async def lines(self) -> AsyncIterator[bytes]:
        """Of its log, to its end; unlike `says` it keeps none of them."""
        assert self._running.stderr is not None
        async for line in self._running.stderr:
            yield line

    async def ended(self) -> int:
        """Its exit code, the rest of its log read."""
        assert self._running.stderr is not None
        async with asyncio.timeout(PATIENCE):
            self.log += await self._running.stderr.read()
            return await self._running.wait()

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes, as /proc tells them: VmRSS now, VmHWM the most since `forget_peak`."""
        status = Path(f"/proc/{self._running.pid}/status").read_text(encoding="ascii")
        found = re.search(rf"{field}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self._running.pid}/clear_refs").write_text("5", encoding="ascii")


@contextlib.asynccontextmanager
async def started(*arguments: str, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """`gateway ARGUMENTS` while the block lasts; none of this process's GATEWAY_ settings count."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    running = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stderr=asyncio.subprocess.PIPE, env={**ours, **environment}
    )
    try:
        yield Process(running)
    finally:
        if running.returncode is None:
            running.kill()
            await running.communicate()


@contextlib.asynccontextmanager
async def serving(worker: str, *more: str, **settings: str) -> AsyncIterator[Process]:
    """`gateway serve MORE` before the worker, once it listens; `timeouts__drain` etc. are set.

    It makes no probes unless these say so; without a worker, those of MORE are served.
    """
    settings = {"probes__interval": "null", "probes__models": "null", **settings}
    environment = {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    arguments = ("serve", "--port", "0", *(("--worker", worker) if worker else ()), *more)
    async with started(*arguments, environment=environment) as process:
        host, port = (await process.says(LISTENS)).groups()
        process.address = (host.decode(), int(port))
        yield process
