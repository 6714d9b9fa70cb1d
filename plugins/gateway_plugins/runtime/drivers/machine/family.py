"""All processes of one engine, however they were forked, and the end of them."""

import asyncio
import logging
import os
import signal
from contextlib import suppress
from time import monotonic

from gateway_plugins.runtime.drivers.machine.processes import alive, is_tracker, reap, related

log = logging.getLogger("gateway.runtime")

SHORTEST, LONGEST = 0.01, 0.2
"""Seconds between two looks at processes that are to end."""

AGAIN = 1.0
"""Seconds after SIGKILL to the next one, for processes that were forked meanwhile."""

PATIENCE = 30.0
"""Seconds for which a process that was killed is waited for; the kernel may hold it for ever."""

CLEAN = 2
"""Looks in a row that find nothing: in the middle of an exec a process has no environment."""


class Family:
    """The processes whose environment bears `mark`, and those in the process group of `leader`.

    The mark finds those that have left the group. `seen` are all that were ever found.
    """

    def __init__(self, mark: str, leader: int | None = None) -> None:
        self.seen: set[int] = set()
        self._mark = mark.encode()
        self._leader = leader
        self._group = leader
        self._asked: set[int] = set()
        self._deadline = float("inf")

    def within(self, grace: float) -> None:
        """Let them be killed in `grace` seconds, if that is earlier than what was said before."""
        self._deadline = min(self._deadline, monotonic() + grace)

    async def end(self) -> None:
        """End all: by SIGTERM, and by SIGKILL at the time that `within` has set.

        Returns when none is left, or `PATIENCE` seconds after SIGKILL.
        """
        clean = 0
        while clean < CLEAN:
            left = await asyncio.to_thread(self._signal)
            clean = 0 if left else clean + 1
            if left and monotonic() > self._deadline + PATIENCE:
                log.error("processes that even SIGKILL does not end are left: %s", sorted(left))
                break
            await self._wait(left)
        reap(self.seen - {self._leader})

    def _signal(self) -> set[int]:
        """Signal all that are there, and return them."""
        members = related(self._mark, self._group)
        if not any(one.group == self._group for one in members):
            self._group = None  # its number may be that of strangers from now on
        found = {one.pid for one in members}
        killed = monotonic() - self._deadline
        for pid in found if killed >= 0 else found - self._asked:
            if 0 <= killed < AGAIN and is_tracker(pid):
                continue  # what others left in shared memory is deleted once they are gone
            # Another user's is named in the end, as one that is left.
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if killed >= 0 else signal.SIGTERM)
        self._asked |= found
        self.seen |= found
        return found

    async def _wait(self, pids: set[int]) -> None:
        """Wait until these have ended, or are to be killed, or might be killed once more."""
        began, pause = monotonic(), SHORTEST
        killed = began >= self._deadline
        while True:
            await asyncio.sleep(pause)
            if monotonic() >= (began + AGAIN if killed else self._deadline):
                return
            if not any(map(alive, pids)):
                return
            pause = min(2 * pause, LONGEST)
