"""Follows a container: what it prints, and how it ends."""

import asyncio
import threading
from time import monotonic, time

from gateway_plugins.runtime.drivers.daemon import Daemon, DaemonError, Following
from gateway_plugins.runtime.drivers.driver import Exit, Log

POLL = 10.0
"""Seconds that one request waits for the end of a container."""

PAUSE = 0.5
"""Seconds until a daemon that failed is asked again."""

PIECES = 64
"""Pieces of output that may be on the way to the event loop; the daemon keeps the rest."""

LAST_WORDS = 5.0
"""Seconds that the output of an ended container may take until its end is reported."""


class Watch:
    """Watches one container, in threads of its own.

    `log` gets what the container prints, in the event loop that is running. The container counts
    as ended if its daemon is away for `patience` seconds.
    """

    def __init__(self, daemon: Daemon, container: str, log: Log, patience: float) -> None:
        self._daemon = daemon
        self._container = container
        self._patience = patience
        self._output = _Output(asyncio.get_running_loop(), log)
        self._over = threading.Event()

    def run(self) -> Exit:
        """Return how the container ended, after all that it printed. Blocks until then."""
        following = threading.Thread(target=self._follow, daemon=True, name="runtime log")
        following.start()
        end = self._end()
        self._over.set()
        following.join(LAST_WORDS)
        self._output.close()
        return end

    def close(self) -> None:
        """The container was removed, or is given up. May be called in any thread."""
        self._over.set()

    def _end(self) -> Exit:
        deadline = monotonic() + self._patience
        while not self._over.is_set():
            try:
                end = self._daemon.wait(self._container, POLL)
            except DaemonError:
                if monotonic() > deadline:
                    break
                self._over.wait(PAUSE)
                continue
            if end is not None:
                return end
            deadline = monotonic() + self._patience
        return Exit(None)

    def _follow(self) -> None:
        """Read the output. If it breaks off, a second of it may come again, but none is lost."""
        while True:
            try:
                with self._daemon.logs(self._container, self._output.latest - 1.0) as following:
                    self._output.read(following)
            except DaemonError:
                pass  # `_end` finds out whether the daemon comes back
            if self._over.wait(PAUSE) or self._output.closed:
                return


class _Output:
    """The way of a container's output to the event loop. `latest`: when a piece came, at last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self.latest = 1.0
        self._loop = loop
        self._log = log
        self._room = threading.Semaphore(PIECES)
        self._closed = threading.Event()
        self._following: Following | None = None

    def read(self, following: Following) -> None:
        """Read to the end of the output, to `close`, or to the end of the event loop."""
        self._following = following
        for piece in following:
            while not self._room.acquire(timeout=PAUSE):
                if self._closed.is_set():
                    return
            self.latest = time()
            try:
                self._loop.call_soon_threadsafe(self._hand, piece)
            except RuntimeError:  # the loop is closed
                self._closed.set()
                return

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        """Nothing is handed over any more, and `read` returns. May be called in any thread."""
        self._closed.set()
        if self._following is not None:
            self._following.close()

    def _hand(self, piece: bytes) -> None:
        self._room.release()
        if not self._closed.is_set():
            self._log(piece)
