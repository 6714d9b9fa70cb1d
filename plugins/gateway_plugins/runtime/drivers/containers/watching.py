"""Follows a container: what it prints, and how it ends."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from time import monotonic, time
from typing import Protocol

from gateway_plugins.runtime.drivers.containers.daemon import Daemon, DaemonError
from gateway_plugins.runtime.drivers.driver import Exit, Log

POLL = 10.0
"""Seconds that one request waits for the end of a container."""

PAUSE = 0.5
"""Seconds until a daemon that failed is asked again."""

PIECES = 64
"""Pieces of output that may be on the way to the event loop; the daemon keeps the rest."""

LAST_WORDS = 5.0
"""Seconds that the output of an ended container may take until its end is reported."""


class Pieces(Protocol):
    """Output as it comes, see `Following`."""

    def __iter__(self) -> Iterator[bytes]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...


class Watch:
    """Watches one container, in threads of its own.

    `log` gets what `following` has and what comes later, in the event loop that is running. The
    container counts as ended if its daemon is away for `patience` seconds.
    """

    def __init__(
        self, daemon: Daemon, container: str, following: Pieces, log: Log, patience: float
    ) -> None:
        self._daemon = daemon
        self._container = container
        self._patience = patience
        self._output = Output(asyncio.get_running_loop(), following, log)
        self._over = threading.Event()
        self._broken = threading.Event()

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
            asked = monotonic()
            try:
                end = self._daemon.wait(self._container, POLL)
            except DaemonError:
                if monotonic() > deadline:
                    break
                self._broken.set()
                self._over.wait(PAUSE)
                continue
            if end is not None:
                return end
            if monotonic() - asked < POLL:
                self._broken.set()
            deadline = monotonic() + self._patience
        return Exit(None)

    def _follow(self) -> None:
        """Read the output. If it breaks off, a second of it may come again, but none is lost.

        The output of a container ends some time before the container has, and its connection shows
        no difference between this and a daemon that went away.
        """
        self._output.read()
        while not (self._over.wait(PAUSE) or self._output.closed):
            if self._broken.is_set():
                self._read_again()

    def _read_again(self) -> None:
        with contextlib.suppress(DaemonError):  # `_end` finds out whether it comes back
            following = self._daemon.logs(self._container, self._output.latest - 1.0)
            self._broken.clear()
            self._output.read_again(following)


class Output:
    """The way of a container's output to the event loop. `latest`: when a piece came, at last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, following: Pieces, log: Log) -> None:
        self.latest = time()
        self._loop = loop
        self._log = log
        self._following = following
        self._room = threading.Semaphore(PIECES)
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def read_again(self, following: Pieces) -> None:
        self._following = following
        self.read()

    def read(self) -> None:
        """Hand over the output up to its end, to `close`, or to the end of the event loop."""
        try:
            for piece in self._following:
                if not self._has_room():
                    return
                self.latest = time()
                self._loop.call_soon_threadsafe(self._hand, piece)
        except RuntimeError:  # the loop is closed
            self._closed.set()
        finally:
            self._following.close()

    def close(self) -> None:
        """Nothing is handed over any more, and `read` returns. May be called in any thread."""
        self._closed.set()
        self._following.cancel()

    def _has_room(self) -> bool:
        """Wait until the event loop has taken in enough. False: the output is closed."""
        while not self._room.acquire(timeout=PAUSE):
            if self._closed.is_set():
                return False
        return not self._closed.is_set()

    def _hand(self, piece: bytes) -> None:
        self._room.release()
        if not self._closed.is_set():
            self._log(piece)
