"""GPU memory, as `nvidia-smi` tells it: an engine that has ended must have given it back."""

import asyncio
import logging
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from time import monotonic

log = logging.getLogger("gateway.runtime")

PROGRAM = "nvidia-smi"

ANSWER = 10.0
"""Seconds in which nvidia-smi must have answered."""

SLACK = 256
"""MiB more than before the start that count as freed: the driver keeps some."""

SETTLED = 3.0
"""Seconds without less memory in use after which the rest is taken for somebody else's."""

LONGEST = 30.0
PAUSE = 0.25


class GpuMemory:
    """The memory of `devices`, numbers or UUIDs; none: of all. `path` is where programs are."""

    def __init__(self, devices: Sequence[str], path: str | None = None) -> None:
        self._devices = devices
        self._program = shutil.which(PROGRAM, path=path)

    async def used(self) -> int | None:
        """Return the MiB in use, None if that cannot be told."""
        rows = await self._ask("--query-gpu=index,uuid,memory.used")
        mine = [row for row in rows if len(row) == 3 and self._has(row[0], row[1])]
        numbers = [int(row[2]) for row in mine if row[2].isdecimal()]
        return sum(numbers) if numbers else None

    async def freed(self, before: int | None, pids: Collection[int]) -> bool:
        """Wait until the processes hold no memory, and no more than `before` MiB are in use.

        Returns False if it still is after `LONGEST`, and True at once if there is no nvidia-smi.
        Memory that does not become less once the processes are gone belongs to others.
        """
        least, changed = None, monotonic()
        until = changed + LONGEST
        while monotonic() < until:
            held = await self._users() & {*pids}
            now = await self.used()
            if not held and (now is None or before is None or now <= before + SLACK):
                return True
            if held or least is None or (now is not None and now < least):
                least, changed = now, monotonic()
            elif monotonic() > changed + SETTLED:
                return True
            await asyncio.sleep(PAUSE)
        return False

    async def _users(self) -> set[int]:
        rows = await self._ask("--query-compute-apps=pid")
        return {int(row[0]) for row in rows if row[0].isdecimal()}

    def _has(self, index: str, uuid: str) -> bool:
        return not self._devices or any(
            one == index or (len(one) > len("GPU-") and uuid.startswith(one))
            for one in self._devices
        )

    async def _ask(self, query: str) -> list[list[str]]:
        """Return the fields of each row of the answer; none if there is no answer."""
        if self._program is None:
            return []
        try:
            text = await _output_of(self._program, query, "--format=csv,noheader,nounits")
        except (OSError, TimeoutError) as error:
            log.warning("%s does not tell how much memory is in use: %r", self._program, error)
            return []
        return [[field.strip() for field in line.split(",")] for line in text.splitlines()]


async def _output_of(*command: str) -> str:
    """Return what it prints, "" if it fails. Raises OSError, TimeoutError.

    If this is cancelled, or takes too long, the process is killed.
    """
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, stdin=nothing, stdout=pipe, stderr=nothing
    )
    try:
        # Not around the start of the process, whose transport would stay open.
        async with asyncio.timeout(ANSWER):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return output.decode(errors="replace") if process.returncode == 0 else ""
