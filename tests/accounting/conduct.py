"""A run from its first call to the comparison of all books."""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from random import Random

import msgspec
import support.plugins.slow_disk as slow_disk
from gateway_plugins.trace_capture import TraceCapture
from support.gateways.capturing import CAPTURE
from support.gateways.serving_process import COMMAND, LISTENS, Process, started

from accounting.books import SOURCES, Books, by_call, check_sums, compare, rows_of
from accounting.calls import LAME
from accounting.load import Load
from accounting.tap import Tap
from gateway import Config, open_read_only
from gateway.config import StorageSettings
from gateway.simulator import Simulator, SimulatorConfig

FOREVER = 1e11
"""Unix seconds after which nothing was recorded."""

NEVER = re.compile(rb"(?!)")
BROKEN = re.compile(rb"Traceback|ERROR| broke in |never retrieved")

SLOW_DISK = slow_disk.__file__
"""For the gateway that is killed: an answer before its commit would be seen then."""

RECOVERED_AFTER = 15.0
"""Seconds after which a gateway that runs has counted the calls of one that died."""

UNCOUNTED = "whose gateway died"

CALM, DEAD = 0.4, 0.1
"""Seconds, on average, that a worker is well, and that it is dead then."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How many calls, by how many callers; `itl` is in seconds.

    `processes` are those of each gateway. With several, `kills` times one of them is killed, or all
    of them and their supervisor a moment later, or the supervisor alone.
    """

    calls: int = 10_000
    callers: int = 32
    workers: int = 3
    itl: float = 0.001
    seed: int = 1
    processes: int = 1
    kills: int = 1


class Report(msgspec.Struct, kw_only=True):
    """How a run went. `problems` is empty where all held that must hold.

    `exact` calls were compared to the token, `partial` ones by what was said and what was read.
    `in_flight_at_kill` calls ran on the gateway that was killed, or had just been left or cut off;
    `cut_off` ones of them have no trace, and `recovered` ones of those a row, with `noted` tokens;
    no worker was asked for the others.
    """

    plan: Plan
    seconds: float
    verdicts: dict[str, int]
    statuses: dict[int, int]
    outcomes: dict[str, int]
    rows: int
    exact: int
    partial: int
    tokens: int
    in_flight_at_kill: int
    cut_off: int
    recovered: int
    noted: int
    problems: list[str]


class Gateways:
    """Processes that share a database."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.live: list[Process] = []
        self.readings: dict[Process, asyncio.Task[None]] = {}
        self._stack = stack

    async def start(self, file: Path) -> Process:
        running = started("serve", "--config", str(file), environment={})
        process = await self._stack.enter_async_context(running)
        host, port = (await process.says(LISTENS)).groups()
        process.address = (host.decode(), int(port))
        self.readings[process] = asyncio.create_task(_read_log(process))
        self.live.append(process)
        return process

    def kill(self, process: Process) -> None:
        """It has no orderly end; those that it started have one."""
        self.live.remove(process)
        process.kill(signal.SIGKILL)

    def kill_some(self, process: Process, count: int) -> None:
        """Of those that it started; it puts others in their place."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        for child in children.split()[:count]:
            os.kill(int(child), signal.SIGKILL)

    async def stop(self) -> None:
        """All that live, in the orderly way: whatever was begun is in the books then."""
        for process in self.live:
            process.kill(signal.SIGTERM)
        await asyncio.gather(*self.readings.values())


async def _read_log(process: Process) -> None:
    """So that it never waits for somebody to read."""
    with contextlib.suppress(EOFError):
        while True:
            with contextlib.suppress(TimeoutError):
                await process.says(NEVER)


def write_keys(folder: Path) -> None:
    scopes = {key: [source] for key, source in SOURCES.items()}
    scopes[LAME] = ["monitor"]
    keys = [{"id": one, "token": f"key-{one}", "scopes": some} for one, some in scopes.items()]
    file = folder / "keys.json"
    file.write_bytes(msgspec.json.encode({"keys": keys}))
    file.chmod(0o600)


def configured(
    folder: Path, name: str, taps: Sequence[Tap], *plugins: str, processes: int = 1
) -> Path:
    """A configuration with more plugins, JSON being YAML too."""
    config = {
        "port": 0,
        "processes": processes,
        "storage": {"path": str(folder / "calls.db")},
        "workers": [{"url": tap.url, "worker_id": tap.name} for tap in taps],
        "plugins": [
            {"gateway_plugins.auth:Auth": {"keys_file": str(folder / "keys.json")}},
            "sessions",
            {CAPTURE: {"logprobs": False}},
            "gateway_plugins.usage:KeyUsage",
            *plugins,
        ],
        "probes": {"interval": None, "models_interval": None},
    }
    file = folder / name
    file.write_bytes(msgspec.json.encode(config))
    return file


@contextlib.asynccontextmanager
async def tapped(plan: Plan) -> AsyncIterator[list[Tap]]:
    """Workers, each behind its tap."""
    async with contextlib.AsyncExitStack() as stack:
        taps = []
        for number in range(plan.workers):
            config = SimulatorConfig(itl=plan.itl, ttft=plan.itl)
            simulator = await stack.enter_async_context(Simulator(config))
            taps.append(tap := Tap(f"w{number}", simulator.port))
            await tap.start()
            stack.callback(tap.kill)
        yield taps


async def _kill_workers(taps: Sequence[Tap], seed: int) -> None:
    """One at a time, again and again; the others are there to be asked."""
    chance = Random(f"deaths {seed}")
    while True:
        await asyncio.sleep(CALM * chance.uniform(0.5, 1.5))
        tap = chance.choice(taps)
        tap.kill()
        await asyncio.sleep(DEAD * chance.uniform(0.5, 1.5))
        await tap.start()


class Death:
    """A gateway's: as somebody has just read its answer, and `after` calls are over."""

    def __init__(self, process: Process, gateways: Gateways, load: Load, after: int) -> None:
        self._process = process
        self._gateways = gateways
        self._load = load
        self._after = after
        self._came = asyncio.Event()
        load.answered = self._answered

    def _answered(self, process: Process) -> None:
        due = process is self._process and len(self._load.asked) >= self._after
        if due and not self._came.is_set():
            self._load.doom(process)
            self._gateways.kill(process)
            self._came.set()

    async def replace(self, file: Path) -> None:
        """Start another in its place."""
        await self._came.wait()
        await self._gateways.start(file)


async def _kill_gateways(plan: Plan, gateways: Gateways, load: Load, file: Path) -> None:
    """One after the other, spread over the calls; a gateway whose supervisor is killed ends."""
    chance = Random(f"gateways {plan.seed}")
    for number in range(plan.kills):
        due = plan.calls * (number + 1) // (plan.kills + 1)
        while len(load.asked) < due:  # noqa: ASYNC110  calls have no event to wait for
            await asyncio.sleep(0.01)
        victim = chance.choice(gateways.live)
        if number % 3 < 2:
            load.doom(victim)
            gateways.kill_some(victim, plan.processes if number % 3 else 1)
        if number % 3:
            await asyncio.sleep(chance.uniform(0.01, 0.3))  # others are starting in their place
            gateways.kill(victim)
            load.doom(victim)
            await gateways.start(file)


async def run(plan: Plan) -> Report:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        taps = await stack.enter_async_context(tapped(plan))
        write_keys(folder)
        file = configured(folder, "gateway.yaml", taps, processes=plan.processes)
        gateways = Gateways(stack)
        slow = configured(folder, "slow.yaml", taps, SLOW_DISK, processes=plan.processes)
        first, _ = await asyncio.gather(gateways.start(slow), gateways.start(file))
        load = Load(gateways, plan.seed)
        began = loop.time()
        if plan.processes > 1:
            killing = _kill_gateways(plan, gateways, load, file)
        else:
            killing = Death(first, gateways, load, plan.calls // 2).replace(file)
        await asyncio.gather(_storm(plan, taps, load), killing)
        seconds = loop.time() - began
        verified = await verified_in_time(file)
        await gateways.stop()
        served = by_call(page for tap in taps for page in tap.served)
        with contextlib.closing(sqlite3.connect(folder / "calls.db")) as db:
            books = Books(rows_of(db), traces_of(folder / "calls.db"), served)
            report = report_of(plan, load, books, check_sums(db, books.rows.values()))
        report.seconds = round(seconds, 2)
        report.problems += [*verified, *_of_logs(gateways.readings)]
    return report


async def _storm(plan: Plan, taps: Sequence[Tap], load: Load) -> None:
    killing = asyncio.create_task(_kill_workers(taps, plan.seed))
    try:
        await load.run(plan.calls, plan.callers)
    finally:
        killing.cancel()
        await asyncio.wait((killing,))


def traces_of(file: Path) -> dict[str, list[str]]:
    """The ids of all traces, by the calls' ids as their callers chose them."""
    found: dict[str, list[str]] = {}
    with open_read_only(Config(storage=StorageSettings(path=str(file))), "GET /sessions") as db:
        for trace in TraceCapture(TraceCapture.Config()).read_traces(db, 0, FOREVER):
            found.setdefault(trace.call_id, []).append(trace.trace_id)
    return found


async def verified_in_time(file: Path) -> list[str]:
    """What `verify` says once gateways have counted the calls of those that died."""
    ends = asyncio.get_running_loop().time() + RECOVERED_AFTER
    lines = await verify(file)
    while any(UNCOUNTED in line for line in lines) and asyncio.get_running_loop().time() < ends:
        lines = await verify(file)
    return lines


async def verify(file: Path) -> list[str]:
    """What `gateway usage verify` has to say; nothing is best."""
    arguments = (*COMMAND, "usage", "verify", "--config", str(file))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=pipe)
    said, complaints = await process.communicate()
    lines = said.decode().splitlines()
    if process.returncode:
        lines += [*complaints.decode().splitlines(), f"it exits with {process.returncode}"]
    return [f"verify: {line}" for line in lines]


def report_of(plan: Plan, load: Load, books: Books, wrong_sums: list[str]) -> Report:
    rows = books.rows
    findings = compare(load.asked, books)
    return Report(
        plan=plan,
        seconds=0.0,
        verdicts=dict(Counter(one.verdict for one in load.asked)),
        statuses=dict(sorted(Counter(one.said.status for one in load.asked).items())),
        outcomes=dict(Counter(row.outcome for row in rows.values())),
        rows=len(rows),
        exact=findings.exact,
        partial=findings.partial,
        tokens=findings.tokens,
        in_flight_at_kill=sum(one.doomed for one in load.asked),
        cut_off=len(findings.cut_off),
        recovered=findings.recovered,
        noted=findings.noted,
        problems=[*findings.problems, *wrong_sums],
    )


def _of_logs(processes: Iterable[Process]) -> list[str]:
    lines = (line for process in processes for line in process.log.splitlines())
    return [line.decode() for line in lines if BROKEN.search(line)]
