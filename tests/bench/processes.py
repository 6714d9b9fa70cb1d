"""Processes on a processor of their own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.programs import on_path, with_ours

MEASURED = 0
"""The processor of what is measured."""

OTHERS = 1
"""That of the worker and the callers."""

PATIENCE = 20.0
"""Seconds for a process to end by itself."""


@contextlib.contextmanager
def pinned(
    argv: Sequence[str],
    processor: int,
    *,
    environment: Mapping[str, str] | None = None,
    output: IO[bytes] | int = subprocess.PIPE,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block lasts; then it and all of its group are ended."""
    with subprocess.Popen(
        [on_path("taskset", "util-linux"), "-c", str(processor), *argv],
        stdout=output,
        stderr=subprocess.STDOUT if output is not subprocess.PIPE else None,
        env=with_ours(environment or {}),
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
