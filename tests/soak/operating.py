"""What operators do while callers call: reloads, drains, workers that come and go, keys, looks."""

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import msgspec
from support.callers.raw_client import CutShort, RawAnswer
from support.gateways.serving_process import COMMAND, PATIENCE, Process

from soak.books import Books
from soak.calls import CHAT
from soak.facts import Asked, Kind, Verdict
from soak.plan import OPERATOR, SPARE, Plan, Settings

JSON = (b"content-type", b"application/json")
LOOKS = (
    *("/health", "/health/workers", "/monitor/key_usage?limit=50"),
    *("/admin/workers", "/admin/limits", "/admin/queue", "/admin/route?session=s-1-1"),
    *("/sessions?limit=20", "/metrics"),
)
NOTICED = 5.0
"""Seconds in which a gateway is sure to know of another key."""


class Operator:
    """Does one thing after the other; `done` is how often each."""

    def __init__(self, plan: Plan, process: Process, settings: Settings, books: Books) -> None:
        self.done: Counter[str] = Counter()
        self._plan = plan
        self._process = process
        self._settings = settings
        self._books = books
        self._chance = Random(f"operator {plan.seed}")
        self._calls = 0
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Until it is stopped; what was begun is brought to its end."""
        ways: list[Callable[[], Awaitable[None]]] = [
            *(
                self.hang_up,
                self.reload,
                self.reload_badly,
                self.squeeze,
                self.drain,
                self.add,
                self.key,
            ),
            *(self.look, self.look, self.query),
        ]
        while not self._stopped.is_set():
            await self._do(self._chance.choice(ways))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._plan.pause * self._chance.uniform(0.5, 1.5)):
                    await self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()

    async def _do(self, way: Callable[[], Awaitable[None]]) -> None:
        try:
            await way()
        except (OSError, EOFError, CutShort, AssertionError, TimeoutError) as error:
            self._books.wrong(f"operator: {way.__name__}: {error!r}")
        self.done[way.__name__] += 1

    async def hang_up(self) -> None:
        self._settings.vary(self._chance)
        self._process.kill(signal.SIGHUP)

    async def reload(self) -> None:
        self._settings.vary(self._chance)
        await self.ask("POST", "/admin/reload")

    async def squeeze(self) -> None:
        """So few slots that calls wait, for a while."""
        self._settings.write(slots=4)
        await self.ask("POST", "/admin/reload")
        await asyncio.sleep(self._plan.pause)
        self._settings.write()
        await self.ask("POST", "/admin/reload")

    async def reload_badly(self) -> None:
        self._settings.spoil()
        await self.ask("POST", "/admin/reload", expected=400)
        self._settings.write()
        await self.ask("POST", "/admin/reload")

    async def drain(self) -> None:
        worker = f"/admin/workers/{self._chance.choice(list(self._plan.workers))}"
        await self.ask("POST", f"{worker}/drain")
        await asyncio.sleep(self._plan.pause)
        await self.ask("POST", f"{worker}/undrain")

    async def add(self) -> None:
        spare = {"url": self._settings.url(SPARE), "worker_id": SPARE}
        await self.ask("POST", "/admin/workers", msgspec.json.encode(spare))
        await asyncio.sleep(self._plan.pause)
        await self.ask("DELETE", f"/admin/workers/{SPARE}")

    async def key(self) -> None:
        """One is made, is good, is revoked, and is not good any more."""
        self._calls += 1
        name = f"guest-{self._calls}"
        secret = await keys_command(
            self._settings.keys, "create", "--id", name, "--scope", "realtime"
        )
        await self._until(name, secret, 200)
        await keys_command(self._settings.keys, "revoke", name)
        await self._until(name, secret, 401)

    async def look(self) -> None:
        await self.ask("GET", self._chance.choice(LOOKS))

    async def query(self) -> None:
        await self.ask("POST", "/traces/query", json.dumps({"limit": 50}).encode())

    async def ask(
        self, method: str, target: str, body: bytes = b"", expected: int = 200
    ) -> RawAnswer:
        headers = [JSON, (b"authorization", b"Bearer key-" + OPERATOR.encode())]
        async with asyncio.timeout(PATIENCE), self._process.client() as client:
            answer = await client.ask(method, target, headers, body)
        self._books.looks[f"{method} {target.partition('?')[0]} {answer.status}"] += 1
        if answer.status != expected:
            self._books.wrong(f"operator: {method} {target}: {answer.status} {answer.body[:300]!r}")
        return answer

    async def _until(self, name: str, secret: bytes, status: int) -> None:
        async with asyncio.timeout(NOTICED + 2.0):
            while await self._call(name, secret) != status:  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def _call(self, name: str, secret: bytes) -> int:
        """A call that a steady worker answers, for the books."""
        self._calls += 1
        call_id = f"operator-{self._plan.seed}-{self._calls}"
        headers = [JSON, (b"authorization", b"Bearer " + secret)]
        headers += [(b"x-request-id", call_id.encode()), (b"x-soak-mood", b"well")]
        body = msgspec.json.encode({"messages": [{"role": "user", "content": "harbo"}]})
        async with self._process.client() as client:
            status = (await client.ask("POST", CHAT, headers, body)).status
        verdict: Verdict = "whole" if status == 200 else "error"
        kind: Kind = "unknown" if status == 401 else "answered"
        self._books.take(Asked(call_id, name, kind, verdict, status))
        return status


async def keys_command(file: Path, *arguments: str) -> bytes:
    """`gateway keys ARGUMENTS`; what it says on standard output."""
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(
        *COMMAND, "keys", *arguments, "--file", str(file), stdout=pipe, stderr=pipe
    )
    said, complaints = await running.communicate()
    assert running.returncode == 0, complaints
    return said.strip()
