"""A soak from its start to its judgement."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic, time
from typing import NamedTuple

import msgspec
from support.gateways.serving_process import COMMAND, LISTENS, Process, started

from soak.books import Books, Tally
from soak.callers import Crowd
from soak.judging import Check, Seen, judge, problems_of
from soak.logs import Log
from soak.operating import Operator
from soak.parts import Part, environment, part, reading
from soak.plan import Plan, Settings
from soak.sampling import Sample, size_of
from soak.watch import QUIET, Watch

LATE = 120.0
"""Seconds in which what is to be deleted is."""

OVERDUE = """
SELECT (SELECT count(*) FROM sessions WHERE last_at < ?)
    + (SELECT count(*) FROM traces WHERE session_id IS NULL AND timestamp < ?)
"""

SHOWN = 120
"""Samples in a report."""


class Report(msgspec.Struct, kw_only=True):
    """How a soak went; `problems` is empty where all held that must hold."""

    plan: Plan
    seconds: float
    calls_a_second: float
    busy: float
    tally: Tally
    verdicts: dict[str, int]
    codes: dict[str, int]
    looks: dict[str, int]
    operations: dict[str, int]
    log: dict[str, int]
    metrics: dict[str, float]
    checks: list[Check]
    problems: list[str]
    samples: list[Sample]


class Stage(NamedTuple):
    """All that takes part in a soak."""

    plan: Plan
    settings: Settings
    process: Process
    workers: Part
    callers: Part
    books: Books
    log: Log
    operator: Operator
    watch: Watch
    logging: asyncio.Task[None]


@contextlib.asynccontextmanager
async def staged(plan: Plan) -> AsyncIterator[Stage]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        books, log = Books(plan.settled, plan.keep / 2), Log()
        workers = await stack.enter_async_context(part("soak.workers", plan))
        settings = Settings(plan, folder, await workers.first(dict[str, int]))
        settings.write()
        serving = started("serve", "--config", str(settings.file), environment=environment())
        process = await stack.enter_async_context(serving)
        host, port = (await process.says(LISTENS)).groups()
        process.address = (host.decode(), int(port))
        callers = await stack.enter_async_context(part("soak.callers", (plan, process.address)))
        for one in (workers, callers):
            one.listen(books.take)
        logging = asyncio.create_task(_read_log(process, log))
        operator = Operator(plan, process, settings, books)
        watch = Watch(plan, process, settings, operator, books, callers)
        yield Stage(plan, settings, process, workers, callers, books, log, operator, watch, logging)


async def run(plan: Plan, samples: Path | None = None) -> Report:
    """Takes `plan.seconds` and some more; `samples` is a file that is added to as it goes.

    Raises OSError where the gateway is gone; the error's notes are what it said last.
    """
    async with staged(plan) as stage:
        try:
            seen = await _load(stage, samples)
            await _settle(stage, seen)
            await _end(stage, seen)
        except OSError as error:
            for line in stage.log.grave[-20:]:
                error.add_note(line)
            raise
        return report_of(seen, stage.books, stage.log)


async def _load(stage: Stage, samples: Path | None) -> Seen:
    """From the first call to the last."""
    plan, watch = stage.plan, stage.watch
    watch.gather(Crowd(callers=2))
    await asyncio.sleep(plan.warming)
    watch.gather(Crowd())
    before = await watch.quiet()
    watch.gather(Crowd(idle=plan.still))
    still = await _held(watch, plan.still)
    watch.gather(Crowd())
    await watch.quiet()
    watch.gather(Crowd(plan.callers, plan.idle))
    operating = asyncio.create_task(stage.operator.run())
    await watch.watch(plan.seconds, samples)
    stage.operator.stop()
    await operating
    await stage.callers.finish()
    after = await watch.quiet(before)
    return Seen(
        plan=plan,
        before=before,
        after=after,
        still=still,
        samples=watch.samples,
        operations=stage.operator.done,
    )


async def _held(watch: Watch, count: int) -> Sample:
    ends = monotonic() + QUIET
    while (sample := await watch.sample()).in_flight < count and monotonic() < ends:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return sample


async def _settle(stage: Stage, seen: Seen) -> None:
    """Compare what is left, and look at the file as a whole."""
    await stage.workers.finish()
    await stage.watch.sample()
    seen.metrics = stage.watch.metrics
    seen.verified = await verify(stage.settings.file)
    with reading(stage.settings.database) as db:
        stage.books.compare(db, all_of_them=True)
        seen.young = stage.books.check_kept(db)
        [(seen.stored,)] = db.execute("SELECT count(*) FROM traces")
        [(seen.overdue,)] = db.execute(OVERDUE, (time() - seen.plan.keep - LATE,) * 2)
        [(seen.integrity,)] = db.execute("PRAGMA integrity_check(1)")


async def _end(stage: Stage, seen: Seen) -> None:
    began = monotonic()
    stage.process.kill(signal.SIGTERM)
    await stage.logging
    seen.exit_status = await stage.process.ended()
    seen.took = monotonic() - began
    seen.wal_closed = size_of(stage.settings.log)


async def _read_log(process: Process, log: Log) -> None:
    async for line in process.lines():
        log.take(line)


async def verify(file: Path) -> list[str]:
    """What `gateway usage verify` has to say; nothing is best."""
    arguments = (*COMMAND, "usage", "verify", "--config", str(file))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *arguments, stdout=pipe, stderr=pipe, env=environment()
    )
    said, complaints = await process.communicate()
    lines = said.decode().splitlines()
    if process.returncode:
        lines += [*complaints.decode().splitlines(), f"it exits with {process.returncode}"]
    return [f"verify: {line}" for line in lines]


def report_of(seen: Seen, books: Books, log: Log) -> Report:
    checks = judge(seen, books, log)
    first, last = seen.samples[0], seen.samples[-1]
    seconds = max(last.at - first.at, 0.1)
    return Report(
        plan=seen.plan,
        seconds=round(seconds, 1),
        calls_a_second=round((last.calls - first.calls) / seconds, 1),
        busy=round((last.cpu - first.cpu) / seconds, 3),
        tally=books.tally,
        verdicts=dict(sorted(books.verdicts.items())),
        codes=dict(sorted(books.codes.items())),
        looks=dict(sorted(books.looks.items())),
        operations=dict(sorted(seen.operations.items())),
        log=dict(log.kinds.most_common()),
        metrics=dict(seen.metrics),
        checks=checks,
        problems=problems_of(checks, books, log),
        samples=seen.samples[:: -(-len(seen.samples) // SHOWN)],
    )
