"""The program that installs, seen from the gateway."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable

import msgspec

from gateway_plugins.uploads.installing import program
from gateway_plugins.uploads.installing.messages import Event, Installed, Job, Refused

KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR")
"""Variables of the gateway's environment that the program gets: no secrets."""

LONGEST_LINE = 1 << 16


async def install(job: Job, stalled: float, told: Callable[[Event], None]) -> Installed | Refused:
    """Install an upload in a process of its own; return how it ended.

    `told` gets each event before that. If nothing comes for `stalled` seconds, or this is
    cancelled, the process is killed.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", program.__name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={name: os.environ[name] for name in KEPT if name in os.environ},
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(job) + b"\n")
        return await _ended(process, stalled, told)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _ended(
    process: asyncio.subprocess.Process, stalled: float, told: Callable[[Event], None]
) -> Installed | Refused:
    assert process.stdout is not None
    while True:
        try:
            async with asyncio.timeout(stalled):
                line = await process.stdout.readline()
        except TimeoutError:
            return Refused("install_failed", f"there was no progress for {stalled:g} s")
        if not line:
            status = await process.wait()
            return Refused("install_failed", f"its process has ended with {status}")
        event = msgspec.json.decode(line, type=Event)
        if isinstance(event, Installed | Refused):
            return event
        told(event)
