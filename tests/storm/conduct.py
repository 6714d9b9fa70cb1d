"""A storm from its calm to its calm, and what is found wrong."""

import asyncio
import contextlib
import re
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
from support.gateways.serving_process import LISTENS, Process, started

from gateway import WorkerInfo
from storm import weather
from storm.ledger import Ledger
from storm.load import Callers
from storm.worker import FaultyWorker

RECOVERY = 30.0
"""Seconds after a storm in which every worker must be up again."""

PHASES = ("calm", "storm", "after")

EJECTED = re.compile(rb"worker (\S+): .*; ejected for")
BROKEN = re.compile(rb"Traceback|ERROR| broke in |never retrieved")
NEVER = re.compile(rb"(?!)")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How large a storm. Times are in seconds; `spell` is how long a worker is in trouble.

    Of the workers, `steady` stay well and `troubled` do not; one more answers all with 400.
    `limit` is how many calls each is given at a time. `rate` is calls a second.
    """

    seed: int = 1
    calm: float = 10.0
    storm: float = 600.0
    spell: float = 4.0
    rate: float = 500.0
    steady: int = 4
    troubled: int = 4
    limit: int = 6
    sessions: int = 500
    first_byte: float = 2.0
    cooldown: float = 1.0


class Report(msgspec.Struct, kw_only=True):
    """How a storm went. `problems` is empty where all held that must hold.

    `p50` and `p99` are milliseconds of calls that steady workers served at once, by phase; `ratio`
    is the p99 of the storm by that of the calm. `lag` is how late callers and workers were woken
    themselves at worst: where that is much, the machine had other things to do, and p99 tells of
    these. `most` is how many calls each worker had at a time at most.
    """

    plan: Plan
    calls: int
    verdicts: dict[str, int]
    said: dict[str, int]
    ejections: dict[str, int]
    most: dict[str, int]
    p50: dict[str, float]
    p99: dict[str, float]
    lag: dict[str, float]
    ratio: float
    recovered_after: float
    problems: list[str]


class Fleet:
    """The workers of a plan."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        def made(kind: str, count: int) -> list[FaultyWorker]:
            names = (f"{kind}-{number}" for number in range(count))
            return [FaultyWorker(name, plan.limit, ledger, plan.seed) for name in names]

        self.steady = made("steady", plan.steady)
        self.troubled = made("troubled", plan.troubled)
        self.refusing = made("refusing", 1)

    @property
    def all(self) -> list[FaultyWorker]:
        return [*self.steady, *self.troubled, *self.refusing]

    async def __aenter__(self) -> "Fleet":
        for worker in self.all:
            await worker.start()
        for worker in self.refusing:
            await worker.become("400")
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.all:
            worker.kill()
        await asyncio.sleep(0)


def settings(plan: Plan, workers: Sequence[FaultyWorker]) -> bytes:
    """The gateway's configuration, JSON being YAML too."""
    breaker = {
        "consecutive_failures": 3,
        "cooldown": plan.cooldown,
        "max_cooldown": plan.cooldown * 4,
    }
    queue = {"max_in_flight_per_worker": plan.limit, "queue": {"max_length": 200, "max_wait": 2.0}}
    return msgspec.json.encode(
        {
            "port": 0,
            "storage": {"path": ":memory:"},
            "workers": [{"url": one.url, "worker_id": one.name} for one in workers],
            "plugins": [
                "sessions",
                {"circuit_breaker": breaker},
                {"backpressure": queue},
                "stickiness",
            ],
            "timeouts": {"connect": 1.0, "first_byte": plan.first_byte, "idle": plan.first_byte},
            "probes": {"interval": plan.cooldown, "timeout": plan.first_byte, "fall": 2, "rise": 1},
        }
    )


@contextlib.asynccontextmanager
async def gateway(plan: Plan, workers: Sequence[FaultyWorker]) -> AsyncIterator[Process]:
    """It serves while the block lasts; its log is read to the end."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        file.write_bytes(settings(plan, workers))
        async with started("serve", "--config", str(file), environment={}) as process:
            host, port = (await process.says(LISTENS)).groups()
            process.address = (host.decode(), int(port))
            reading = asyncio.create_task(_read_log(process))
            yield process
            process.kill(signal.SIGTERM)
            await reading


async def _read_log(process: Process) -> None:
    """So that it never waits for somebody to read."""
    while True:
        try:
            await process.says(NEVER)
        except TimeoutError:
            continue
        except EOFError:
            return


async def states(process: Process) -> list[WorkerInfo]:
    async with process.client() as client:
        answer = await client.ask("GET", "/health/workers")
    return msgspec.convert(msgspec.json.decode(answer.body)["workers"], list[WorkerInfo])


async def run(plan: Plan) -> Report:
    ledger = Ledger()
    async with Fleet(plan, ledger) as fleet, gateway(plan, fleet.all) as process:
        steady = {worker.name.encode() for worker in fleet.steady}
        callers = Callers(process.address, ledger, plan.sessions, steady, plan.seed)
        callers.phase = "calm"
        await callers.call(plan.calm, plan.rate)
        callers.phase = "storm"
        await _storm(plan, fleet, callers)
        callers.phase = "after"
        recovered_after = await _recover(plan, process, callers)
        await callers.finish()
        left = await states(process)
    return report(plan, ledger, left, process.log, recovered_after)


async def _storm(plan: Plan, fleet: Fleet, callers: Callers) -> None:
    blowing = asyncio.create_task(weather.blow(fleet.troubled, plan.spell, plan.seed))
    await callers.call(plan.storm, plan.rate)
    blowing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await blowing
    await weather.clear_up(fleet.troubled)


async def _recover(plan: Plan, process: Process, callers: Callers) -> float:
    """Seconds until every worker was up, calls going on; RECOVERY where that was never so."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (passed := loop.time() - began) < RECOVERY:
        await callers.call(0.1, plan.rate)
        if all(worker.state == "up" for worker in await states(process)):
            break
    return round(passed, 2)


def report(
    plan: Plan, ledger: Ledger, left: list[WorkerInfo], log: bytes, recovered_after: float
) -> Report:
    ejections = Counter(name.decode() for name in EJECTED.findall(log))
    p99 = _percentiles(ledger.latencies, 0.99)
    return Report(
        plan=plan,
        calls=sum(ledger.verdicts.values()),
        verdicts={str(verdict): count for verdict, count in ledger.verdicts.items()},
        said=dict(ledger.said),
        ejections=dict(ejections),
        most=dict(ledger.most),
        p50=_percentiles(ledger.latencies, 0.5),
        p99=p99,
        lag=_percentiles(ledger.lags, 1.0),
        ratio=round(p99["storm"] / max(p99["calm"], 0.1), 2),
        recovered_after=recovered_after,
        problems=[*_of_calls(ledger), *_of_workers(left, ejections), *_of_log(log)],
    )


def _percentiles(seconds: Mapping[str, list[float]], share: float) -> dict[str, float]:
    """In milliseconds, by phase; 0 where there was nothing to measure."""
    ranked = {phase: sorted(seconds.get(phase, ())) or [0.0] for phase in PHASES}
    return {
        phase: round(some[int(share * (len(some) - 1))] * 1e3, 1) for phase, some in ranked.items()
    }


def _of_calls(ledger: Ledger) -> list[str]:
    twice = [call_id for call_id, count in ledger.runs.items() if count > 1]
    unrun = ledger.whole - ledger.runs.keys()
    return [
        *(f"ended as none may: {call}" for call in ledger.unheard),
        *(f"run {ledger.runs[call_id]} times: {call_id}" for call_id in twice),
        *(f"whole and never run: {call_id}" for call_id in unrun),
        *(f"{name}: over its limit {count} times" for name, count in ledger.over_limit.items()),
    ]


def _of_workers(left: list[WorkerInfo], ejections: Counter[str]) -> list[str]:
    return [
        *(f"{one.worker_id}: still {one.state}" for one in left if one.state != "up"),
        *(
            f"{one.worker_id}: {one.active_requests} in flight"
            for one in left
            if one.active_requests
        ),
        *(f"{name}: ejected" for name in ejections if not name.startswith("troubled")),
    ]


def _of_log(log: bytes) -> list[str]:
    return [line.decode() for line in log.splitlines() if BROKEN.search(line)]
