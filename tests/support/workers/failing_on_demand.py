"""Workers that fail their calls as a test tells them to, and a gateway that breaks circuits."""

import asyncio
import contextlib

import httpx
from support.plugins.recording_plugin import until

from gateway.config import PluginEntry
from gateway.testing import (
    MESSAGES,
    Live,
    ScriptedConnection,
    ScriptedWorker,
    answer_of,
    entry,
)

BODY = {"messages": [dict(message) for message in MESSAGES], "max_tokens": 1}
AT_ONCE = 0.01
NEVER = 600.0


def breaker(**options: object) -> PluginEntry:
    """One that ejects after two failures, for good, and the only worker too."""
    given = {
        "consecutive_failures": 2,
        "cooldown": NEVER,
        "max_cooldown": NEVER,
        "max_ejected_share": 1,
    }
    return entry("circuit_breaker", **{**given, **options})


async def ask(live: Live, **body: object) -> httpx.Response:
    return await live.client.post("/v1/chat/completions", json={**BODY, **body})


async def fail(live: Live, times: int = 2) -> None:
    """Calls one after the other, whose answers may be broken off."""
    for _ in range(times):
        with contextlib.suppress(httpx.HTTPError):
            await ask(live)


def state_of(live: Live, number: int = 0) -> str:
    return live.gateway.workers.all[number].info().state


def reason_of(live: Live, number: int = 0) -> str:
    return live.gateway.workers.all[number].conditions["circuit_breaker"].reason


class Moody(ScriptedWorker):
    """Answers 200 while it is `well`, else 500; calls that hold `holds` wait for the `gate`.

    `held` are waiting now, `most` is how many were at a time.
    """

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.well = True
        self.holds = b""
        self.held = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            if self.holds in await connection.read_request():
                await self._hold()
            status = "200 OK" if self.well else "500 No"
            await connection.write(answer_of(b'{"choices": []}', status=status))

    async def _hold(self) -> None:
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            await self.gate.wait()
        finally:
            self.held -= 1


async def half_open(live: Live, worker: Moody) -> None:
    """Fail until the first worker is ejected, and wait for its cooldown."""
    worker.well = False
    while state_of(live) == "up":
        await ask(live)
    await until(lambda: state_of(live) == "half_open")
