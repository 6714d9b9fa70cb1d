"""Processes on a processor of their own, and what they have used so far."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from bench.programs import on_path

MEASURED = 0
"""The processor of what is measured."""

OTHERS = 1
"""That of the worker and the callers."""

PATIENCE = 20.0
"""Seconds for a process to end by itself."""

_TICKS = os.sysconf("SC_CLK_TCK")


class Used(NamedTuple):
    """By a process and all that it has started: seconds of CPU, and resident bytes now."""

    cpu: float
    memory: int


@contextlib.contextmanager
def pinned(
    argv: Sequence[str],
    processor: int,
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int = subprocess.PIPE,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block lasts; then it and all of its group are ended.

    None of this process's GATEWAY_ settings count.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with subprocess.Popen(
        [on_path("taskset", "util-linux"), "-c", str(processor), *argv],
        stdout=output,
        stderr=subprocess.STDOUT if output is not subprocess.PIPE else None,
        env={**ours, **(environment or {})},
        cwd=cwd,
        start_new_session=True,
    ) as running:
        try:
            yield running
        finally:
            _end(running)


def _end(running: subprocess.Popen[bytes]) -> None:
    _signal(running, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(PATIENCE)
    _signal(running, signal.SIGKILL)  # what is left of its group, and it


def _signal(running: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, number)


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
    return Used(cpu / _TICKS, memory * resource.getpagesize())


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (task / "children").read_text("utf-8").split())
