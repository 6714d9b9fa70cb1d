"""What a system has used by some time, and what its processor did meanwhile."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """By a process and all that it has started: seconds of CPU, and resident bytes now.

    `loop` is the CPU of the process's first thread, which runs the event loop of a gateway, and
    `threads` that of its other ones: the writer of traces above all.
    """

    cpu: float = 0.0
    memory: int = 0
    loop: float = 0.0
    threads: float = 0.0


class Processor(NamedTuple):
    """What one has done since the machine began, in seconds.

    `programs` is what it gave to programs, `stolen` what the machine below gave to others.
    """

    programs: float
    idle: float
    stolen: float
    all: float


class Meter(NamedTuple):
    used: Used
    processor: Processor

    @classmethod
    def now(cls, pid: int | None, processor: int) -> "Meter":
        return cls(
            used(pid) if pid is not None else Used(),
            processor_of(Path("/proc/stat").read_text("utf-8"), processor),
        )


class Spent(NamedTuple):
    """Between two readings of a meter: CPU of the system in seconds, the rest in shares of the
    processor's time.

    It was `busy` with anything, `others` are programs that are not the system.
    """

    cpu: float
    loop: float
    threads: float
    busy: float
    others: float
    stolen: float

    @classmethod
    def between(cls, first: Meter, last: Meter) -> "Spent":
        before, after = first.processor, last.processor
        whole = max(after.all - before.all, 1 / _TICKS)
        cpu = last.used.cpu - first.used.cpu
        return cls(
            cpu=cpu,
            loop=last.used.loop - first.used.loop,
            threads=last.used.threads - first.used.threads,
            busy=1 - (after.idle - before.idle) / whole,
            others=max(0.0, after.programs - before.programs - cpu) / whole,
            stolen=(after.stolen - before.stolen) / whole,
        )


def used(pid: int) -> Used:
    """So far; what has ended counts once its parent has noticed."""
    cpu, memory, left = 0, 0, [pid]
    while left:
        one = left.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{one}/stat").read_text("utf-8").rpartition(")")[2].split()
            cpu += sum(map(int, stat[11:15]))
            memory += int(Path(f"/proc/{one}/statm").read_text("utf-8").split()[1])
            left += _children(one)
    threads = dict(_threads(pid))
    loop = threads.pop(pid, 0.0)
    return Used(cpu / _TICKS, memory * resource.getpagesize(), loop, sum(threads.values()))


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text("utf-8").split())


def _threads(pid: int) -> Iterator[tuple[int, float]]:
    """The number of each thread that runs now, with its seconds of CPU."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                nanoseconds = (task / "schedstat").read_text("utf-8").split()[0]
                yield int(task.name), int(nanoseconds) / 1e9


def processor_of(stat: str, number: int) -> Processor:
    """Out of the text of /proc/stat; time in interrupts is nobody's."""
    [line] = [line for line in stat.splitlines() if line.startswith(f"cpu{number} ")]
    ticks = [int(word) / _TICKS for word in line.split()[1:9]]
    user, nice, system, idle, waiting, _, _, stolen = ticks
    return Processor(user + nice + system, idle + waiting, stolen, sum(ticks))
