"""Accepts callers as long as there are descriptors for their connections, and for the workers'.

A process without a descriptor left can neither accept a caller nor reach a worker, and its event
loop would drop whoever connects. So a process accepts no more callers than it can serve: with a
connection to a worker for each, and a reserve. The others wait in the system's queue.
"""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway.telemetry.occupancy import Occupancy

log = logging.getLogger("gateway")

WANTED = 65_536
"""Descriptors that a process takes if the hard limit allows."""

RESERVE = 16
"""Descriptors for everything but connections: files that are opened for a moment, and the like."""

PER_WORKER = 2
"""Descriptors for probes of a worker, and for requests for its models."""

FEWEST = 4
"""Callers that are accepted in any case."""

AT_ONCE = 64
"""Callers that are accepted before other events of the loop get their turn."""

ROOM_AGAIN = 0.9
"""Share of the most callers below which accepting is resumed."""

QUIET_AFTER = 10.0
"""Seconds without a pause after which a shortage is over."""


class Door:
    """The listening sockets of a server. `protocol` makes the protocol of a connection."""

    def __init__(
        self, occupancy: Occupancy, protocol: Callable[[], asyncio.Protocol], backlog: int
    ) -> None:
        self.sockets: Sequence[socket.socket] = ()
        self._occupancy = occupancy
        self._protocol = protocol
        self._backlog = backlog
        self._entering: set[asyncio.Task[object]] = set()
        self._last_pause = 0.0

    def open(self, sockets: Sequence[socket.socket], workers: int) -> None:
        """Accept callers from these sockets, which are bound. Raises OSError."""
        self._occupancy.most = callers_at_most(workers)
        for one in sockets:
            one.setblocking(False)
            one.listen(self._backlog)
        self.sockets = sockets
        self._watch()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self.sockets:
            loop.add_reader(one.fileno(), self._enter, one)

    def _enter(self, listening: socket.socket) -> None:
        """Accept those who wait."""
        occupancy = self._occupancy
        for _ in range(AT_ONCE):
            if occupancy.most is not None and occupancy.open >= occupancy.most:
                self._pause()
                return
            try:
                caller, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor, although there should be
                self._pause()
                return
            occupancy.open += 1
            caller.setblocking(False)
            with contextlib.suppress(OSError):  # it has left already
                caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connect(caller)

    def _connect(self, caller: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, caller))
        self._entering.add(task)
        task.add_done_callback(self._entered)

    def _entered(self, task: asyncio.Task[object]) -> None:
        self._entering.discard(task)
        if task.cancelled() or task.exception() is not None:
            self.left()

    def left(self) -> None:
        """Note that a caller's connection has closed."""
        occupancy = self._occupancy
        occupancy.open -= 1
        if occupancy.paused and occupancy.open <= (occupancy.most or 0) * ROOM_AGAIN:
            self._resume()

    def tick(self) -> None:
        """Look again, once in a while, whether there is room, and whether a shortage is over."""
        occupancy = self._occupancy
        quiet = asyncio.get_running_loop().time() - self._last_pause
        if occupancy.paused and occupancy.open < (occupancy.most or 0):
            self._resume()
        elif occupancy.short and not occupancy.paused and quiet > QUIET_AFTER:
            occupancy.short = False
            log.info("descriptors suffice again: callers need not wait")

    def _pause(self) -> None:
        occupancy = self._occupancy
        occupancy.paused = True
        self._last_pause = asyncio.get_running_loop().time()
        self._unwatch()
        if not occupancy.short:
            occupancy.short = True
            occupancy.pauses += 1
            log.warning(
                "%d callers are connected, and descriptors suffice for no more (ulimit -n): "
                "further callers wait until others have left",
                occupancy.open,
            )

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self.sockets:
            loop.remove_reader(one.fileno())

    def _resume(self) -> None:
        self._occupancy.paused = False
        self._watch()

    async def settle(self) -> None:
        """Wait for the connections that have been accepted and not made."""
        if self._entering:
            await asyncio.wait(self._entering)

    def close(self) -> None:
        """Accept nobody any more."""
        self._unwatch()
        for one in self.sockets:
            one.close()
        self.sockets = ()


def raise_limit() -> None:
    """Take as many descriptors as the hard limit allows, as servers do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def callers_at_most(workers: int) -> int | None:
    """Return how many callers the free descriptors suffice for; None if they are unlimited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    in_use = len(list(Path("/dev/fd").iterdir()))
    return max(FEWEST, (soft - in_use - RESERVE - PER_WORKER * workers) // 2)
