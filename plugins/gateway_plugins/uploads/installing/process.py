"""The program that installs, seen from the gateway.

Threads start it and read what it says: the event loop would stand while a large gateway forks.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine

import msgspec

from gateway_plugins.uploads.installing import program
from gateway_plugins.uploads.installing.messages import Event, Installed, Job, Refused

KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR")
"""Variables of the gateway's environment that the program gets: no secrets."""

LONGEST_LINE = 1 << 16


async def install(job: Job, stalled: float, told: Callable[[Event], None]) -> Installed | Refused:
    """Install an upload in a process of its own; return how it ended.

    `told` gets each event before that. If nothing comes for `stalled` seconds, or this is
    cancelled, the process is killed. Raises OSError if it cannot be started.
    """
    starting, lines = asyncio.ensure_future(asyncio.to_thread(_start, job)), _Lines()
    try:
        process = await asyncio.shield(starting)
        return await _ended(process, lines, stalled, told)
    finally:
        await _to_its_end(_end(starting, lines))


class _Lines:
    """`reading` is what a thread reads now, or has read at last."""

    reading: "asyncio.Future[bytes] | None" = None


def _start(job: Job) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", program.__name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in KEPT if name in os.environ},
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # its end is told
        process.stdin.write(msgspec.json.encode(job) + b"\n")
    return process


async def _ended(
    process: "subprocess.Popen[bytes]",
    lines: _Lines,
    stalled: float,
    told: Callable[[Event], None],
) -> Installed | Refused:
    while True:
        lines.reading = reading = asyncio.ensure_future(asyncio.to_thread(_line, process))
        done, _ = await asyncio.wait([reading], timeout=stalled)
        if not done:
            return Refused("install_failed", f"there was no progress for {stalled:g} s")
        if not (line := reading.result()):
            status = await asyncio.to_thread(process.wait)
            return Refused("install_failed", f"its process has ended with {status}")
        event = msgspec.json.decode(line, type=Event)
        if isinstance(event, Installed | Refused):
            return event
        told(event)


def _line(process: "subprocess.Popen[bytes]") -> bytes:
    assert process.stdout is not None
    return process.stdout.readline(LONGEST_LINE)


async def _to_its_end(work: Coroutine[object, object, None]) -> None:
    """Wait for the work, and raise only then what cancels this meanwhile."""
    task, cancelled = asyncio.create_task(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # a loop that ends now would leave the pipes open
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


async def _end(starting: "asyncio.Future[subprocess.Popen[bytes]]", lines: _Lines) -> None:
    """Kill the process, which ends a thread that still reads, and wait for its end."""
    with contextlib.suppress(OSError):
        process = await starting
        process.kill()
        await asyncio.to_thread(process.wait)
        if lines.reading is not None:
            await asyncio.wait([lines.reading])
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
