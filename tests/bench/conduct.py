"""A run from beginning to end: which systems do which works, round after round."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from support.ports import free_port

from bench.builds import UNCOMPILED, Build, at, build_of, present
from bench.found import Found, Machine
from bench.peers import PEERS
from bench.programs import build
from bench.rows import Row
from bench.running import count, running, workers
from bench.stack import NAME
from bench.systems import Place, System, named
from bench.works import Reading, Work
from gateway import ConfigError


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`refs` are commits of the gateway that is compared with itself; if it is `uncompiled`, it is
    also compared with what it is without its native part.

    `programs` is the folder of what is installed, `work` one for what is left by no run.
    """

    rows: Sequence[Row]
    peers: Sequence[str]
    refs: Sequence[str] = ()
    uncompiled: bool = False
    rounds: int
    seconds: float
    programs: Path
    work: Path


class Task(msgspec.Struct):
    """A system with all that it has to do in a round."""

    system: System
    works: list[Work]


def measure(plan: Plan) -> Found:
    """Raises ConfigError where what is measured with cannot be had."""
    found = Found(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=Machine.this(),
        rounds=plan.rounds,
        seconds=plan.seconds,
        rows=[row.name for row in plan.rows],
    )
    programs = build(plan.programs)
    found.versions[NAME] = present().version()
    tasks = tasks_of(plan, found)
    for number in range(1, plan.rounds + 1):
        for task in tasks:
            say(f"round {number} of {plan.rounds}: {task.system.name}")
            _do(task, plan, programs, found)
    return found


def tasks_of(plan: Plan, found: Found) -> list[Task]:
    """Each system once, with the works of all rows that it is in."""
    tasks: dict[str, Task] = {}
    peers = {name: system for name in plan.peers if (system := _peer(name, plan, found))}
    builds = [*_builds(plan)]
    found.builds += (build.name for build in builds)
    found.versions |= {named(NAME, build.name): build.version() for build in builds}
    for row in plan.rows:
        others = [peers[name] for name in row.peers if name in peers]
        for system in (*others, *_ours(row, builds)):
            task = tasks.setdefault(system.name, Task(system, []))
            task.works += [work for work in row.works if work not in task.works]
    versions = {task.system.name: task.system.version for task in tasks.values()}
    found.versions |= {name: version for name, version in versions.items() if version}
    return list(tasks.values())


def _builds(plan: Plan) -> Iterator[Build]:
    """Each once, whatever names a commit was given by."""
    commits = {build.name: build for build in (build_of(plan.programs, ref) for ref in plan.refs)}
    yield from commits.values()
    if plan.uncompiled:
        yield UNCOMPILED


def _ours(row: Row, builds: Sequence[Build]) -> Iterator[System]:
    """Each system next to the same of earlier builds, so that little changes between them."""
    for system in row.systems:
        yield system
        if row.compared:
            yield from (at(build, system) for build in builds)


def _peer(name: str, plan: Plan, found: Found) -> System | None:
    if not any(name in row.peers for row in plan.rows):
        return None
    say(f"preparing {name}")
    try:
        return PEERS[name](plan.programs)
    except ConfigError as error:
        _leave_out(name, str(error), found)
        return None


def _do(task: Task, plan: Plan, programs: Path, found: Found) -> None:
    system = task.system
    if system.name in found.left_out:
        return
    folder = plan.work / system.name.replace(",", "").replace(" ", "-")
    folder.mkdir(exist_ok=True)
    try:
        with workers(programs / "upstream", system.workers) as port:
            place = Place(folder, free_port(), port)
            _measure(task, place, plan, programs / "load", found)
    except ConfigError as error:
        _leave_out(system.name, str(error), found)
    finally:
        if not system.kept:
            shutil.rmtree(folder)


def _measure(task: Task, place: Place, plan: Plan, load: Path, found: Found) -> None:
    system = task.system
    command = system.command(place) if system.command is not None else None
    traces = command.traces if command is not None else None
    before, answered = count(traces), 0
    with running(system, command, place, load) as one:
        for work in task.works:
            reading = work.do(one, plan.seconds)
            found.of(system.name, work.name).append(reading)
            answered += reading.answered
            if reading.errors:
                found.problems.append(f"{system.name}, {work.name}: {_errors(reading)}")
    if command is not None and command.configuration:
        found.configurations[system.name] = command.configuration
    if traces is not None and (kept := count(traces) - before) < answered:
        found.problems.append(f"{system.name}: {answered} answered calls, {kept} traces")


def _errors(reading: Reading) -> str:
    return f"{reading.errors} calls failed, such as: {reading.first_error}"


def _leave_out(name: str, why: str, found: Found) -> None:
    say(f"{name} is left out: {why}")
    found.left_out[name] = why


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
