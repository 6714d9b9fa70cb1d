"""A batch from its file to its results, through the deaths of the gateways that run it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import msgspec
from accounting.tap import Tap
from batch.kills.books import Books, Snapshot, problems_of
from gateway_plugins.batch.queue.holders import lock_of
from openai import AsyncOpenAI
from support.gateways.serving_process import Process, serving, started
from support.records.usage_rows import rows_after

from gateway.simulator import Simulator, SimulatorConfig

CHAT = "/v1/chat/completions"
PATIENCE = 600.0
"""Seconds in which what is left after the last kill has to be done."""

POLL = 0.1

Ended = asyncio.Task[None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How many lines and how many kills; `longest`: seconds that a gateway lives, at most.

    With several `processes`, one that runs items is killed, and the others go on. An answer takes
    `ttft` seconds and `itl` for each of its tokens.
    """

    lines: int = 10_000
    kills: int = 200
    processes: int = 1
    seed: int = 1
    longest: float = 1.5
    ttft: float = 0.2
    itl: float = 0.02


class Report(msgspec.Struct, kw_only=True):
    """How a run went. `generations` are those that the engine began, `again` those that it had to
    begin once more because their answers died with a gateway. No problems are best."""

    plan: Plan
    seconds: float
    kills: int
    in_flight_at_kills: int
    generations: int
    again: int
    tokens: int
    problems: list[str]


async def run(plan: Plan) -> Report:
    """Run it whole. Raises TimeoutError if the batch does not end."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        config = SimulatorConfig(ttft=plan.ttft, itl=plan.itl)
        async with Simulator(config) as simulator:
            tap = Tap("engine", int(simulator.url.rpartition(":")[2]))
            await tap.start()
            try:
                kills = Kills(plan, Path(name, "gateway.db"), tap)
                await kills.run()
                return kills.report(time.monotonic() - begun)
            finally:
                tap.kill()


class Kills:
    """Gateways on one file, each killed while it runs the lines of one batch."""

    def __init__(self, plan: Plan, database: Path, tap: Tap) -> None:
        self.plan = plan
        self.books = Books()
        self._chance = Random(plan.seed)
        self._database = database
        self._tap = tap
        self._killed = 0

    async def run(self) -> None:
        killing = self._kill_processes() if self.plan.processes > 1 else self._kill_gateways()
        await killing
        async with self._gateway() as (process, _):
            await self._finish(process)
        self.books.served = self._tap.served
        with self._open() as db:
            self.books.rows = list(rows_after(db, 0).values())

    def report(self, seconds: float) -> Report:
        books = self.books
        return Report(
            plan=self.plan,
            seconds=round(seconds, 1),
            kills=self._killed,
            in_flight_at_kills=sum(one.running for one in books.snapshots),
            generations=books.generations,
            again=books.generations - self.plan.lines,
            tokens=sum(line.completion_tokens for line in books.lines),
            problems=list(problems_of(books, self.plan.lines)),
        )

    async def _kill_gateways(self) -> None:
        """Kill one after the other, each at any moment, also as it begins."""
        while self._killed < self.plan.kills and not self._is_over():
            early = self._killed and self._chance.random() < 0.2
            async with self._gateway(wait=not early) as (process, ended):
                if not self._killed:
                    await self._submit(process)
                await self._wait()
                process.kill(signal.SIGKILL)
                await ended
            self._killed += 1
            self._snap()

    async def _kill_processes(self) -> None:
        """Kill those that hold leases, while the others of the same gateway go on."""
        async with self._gateway() as (process, ended):
            await self._submit(process)
            while self._killed < self.plan.kills and not self._is_over():
                await self._holder()  # a supervisor waits before it replaces one that soon dies
                await self._wait()
                victim = await self._holder()
                if victim is None:
                    break
                os.kill(victim, signal.SIGKILL)
                self._killed += 1
                self._snap()
            process.kill(signal.SIGKILL)  # the others notice that, and end
            await ended
            self._snap()

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self.plan.longest))  # any moment will do

    def _snap(self) -> None:
        """Note what is committed, and how far the engine has been asked."""
        asked = len(self._tap.served)
        with self._open() as db:
            done = {one for (one,) in db.execute("SELECT id FROM batch_items WHERE state = 2")}
            [(running,)] = db.execute("SELECT count(*) FROM batch_items WHERE state = 1")
        self.books.snapshots.append(Snapshot(asked, done, running))

    async def _holder(self) -> int | None:
        """The process id of one that runs items; None if the batch is over."""
        query = "SELECT DISTINCT holder FROM batch_items WHERE state = 1"
        while not self._is_over():
            with self._open() as db:
                found = [pid_of(lock_of(self._database, one)) for (one,) in db.execute(query)]
            alive = [one for one in found if one is not None]
            if alive:
                return self._chance.choice(alive)
            await asyncio.sleep(POLL)
        return None

    def _is_over(self) -> bool:
        if not self._database.exists():
            return False
        with self._open() as db:
            [(unfinished, ended)] = db.execute(
                "SELECT count(*) - count(ended), count(ended) FROM batches"
            )
        return bool(ended and not unfinished)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._database, timeout=20)) as db:
            yield db

    @contextlib.asynccontextmanager
    async def _gateway(self, *, wait: bool = True) -> AsyncIterator[tuple[Process, Ended]]:
        """Once it listens, or without `wait` as soon as it begins; and a task that ends with it."""
        plugins = ("--plugin", "batch", "--plugin", "usage")
        more = ("--processes", str(self.plan.processes)) if self.plan.processes > 1 else ()
        settings = {"storage__path": str(self._database)}
        arguments = ("serve", "--port", "0", "--worker", self._tap.url, *plugins)
        environment = {"GATEWAY_STORAGE__PATH": str(self._database)}
        starting = (
            serving(self._tap.url, *plugins, *more, **settings)
            if wait
            else started(*arguments, environment=environment)
        )
        async with starting as process:
            ended = asyncio.create_task(_read(process))
            try:
                yield process, ended
            finally:
                ended.cancel()
                await asyncio.wait([ended])

    async def _submit(self, process: Process) -> None:
        content = b"".join(line(one, self._chance) for one in range(self.plan.lines))
        async with client_of(process) as client:
            file = await client.files.create(file=content, purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        self.books.batch = batch.id

    async def _finish(self, process: Process) -> None:
        async with client_of(process) as client, asyncio.timeout(PATIENCE):
            batch = await client.batches.retrieve(self.books.batch)
            while batch.status not in ("completed", "failed", "expired", "cancelled"):
                await asyncio.sleep(POLL)
                batch = await client.batches.retrieve(batch.id)
            self.books.ended = batch
            for file_id in (batch.output_file_id, batch.error_file_id):
                if file_id is not None:
                    content = await client.files.content(file_id)
                    self.books.read(content.content)


async def _read(process: Process) -> None:
    """Read its log to the end: a process whose log nobody reads stands still once that is full."""
    async for _ in process.lines():
        pass


def client_of(process: Process) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=5)


def line(number: int, chance: Random) -> bytes:
    """Each of them has an answer of its own."""
    text = f"What was in the harbour on day {number}?"
    body = {
        "model": "sim",
        "messages": [{"role": "user", "content": text}],
        "seed": number,
        "max_tokens": chance.randint(1, 12),
    }
    members = {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": body}
    return json.dumps(members).encode() + b"\n"


FLOCK = re.compile(r"FLOCK .* (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ")


def pid_of(lock: Path) -> int | None:
    """The process that holds the lock of a file, as the kernel says."""
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        return None
    locks = FLOCK.findall(Path("/proc/locks").read_text(encoding="ascii"))
    return next((int(pid) for pid, found in locks if int(found) == inode), None)
