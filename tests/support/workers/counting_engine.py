"""A simulated engine in a process of its own, which counts what it begins where no kill reaches.

python counting_engine.py PORT FILE TTFT: the id of each call that it has begun is a line of FILE.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import httpx
import uvicorn
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from gateway.simulator import SimulatorConfig, create_simulator

PATIENCE = 40.0


class Counting:
    """Writes down each generation before the simulator sees it."""

    def __init__(self, file: Path, ttft: float) -> None:
        self._app = create_simulator(SimulatorConfig(ttft=ttft))
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            os.write(self._file, Headers(scope=scope)["x-request-id"].encode() + b"\n")
        await self._app(scope, receive, send)


class Engine:
    """The process; `begun` counts by the id of the call, over all its lives."""

    def __init__(self, port: int, file: Path, ttft: float = 0.4) -> None:
        self._command = (sys.executable, __file__, str(port), str(file), str(ttft))
        self._file = file
        self._url = f"http://127.0.0.1:{port}/health"
        self._running: asyncio.subprocess.Process | None = None

    @property
    def begun(self) -> Counter[str]:
        return Counter(self._file.read_text().split()) if self._file.exists() else Counter()

    async def start(self) -> None:
        """Raises TimeoutError if it does not come up."""
        self._running = await asyncio.create_subprocess_exec(*self._command)
        async with asyncio.timeout(PATIENCE), httpx.AsyncClient() as client:
            while not await _answers(client, self._url):  # noqa: ASYNC110  another process
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self._running is not None:
            self._running.send_signal(signal.SIGKILL)
            await self._running.wait()
            self._running = None


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    uvicorn.run(
        Counting(Path(sys.argv[2]), float(sys.argv[3])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
    )
