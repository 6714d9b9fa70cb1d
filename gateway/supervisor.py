"""The process that starts the others, replaces those that crash, and passes signals on.

It serves nothing, has no threads and no event loop, so that it can be forked at any time and hardly
anything in it can fail.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

import msgspec

log = logging.getLogger("gateway")

STEADY = 10.0
"""Seconds after which a process has not ended quickly."""

PAUSES = (0.5, 10.0)
"""Seconds before one that keeps ending quickly is replaced: at first, and at most."""

ENDS = frozenset({signal.SIGINT, signal.SIGTERM})
HEARD = frozenset({*ENDS, signal.SIGHUP, signal.SIGCHLD})


class Post(msgspec.Struct, frozen=True):
    """What a process is to be. `replaces`: one of this index has been there before.

    `ready` is a pipe into which it writes its index as one byte once it serves; from `life` comes
    nothing but the end, when the supervisor has ended.
    """

    index: int
    ready: int
    life: int
    replaces: bool


Role = Callable[[Post], int]
"""The life of a process; gives its exit status."""


class Child(msgspec.Struct):
    """A process that runs; `began` is of time.monotonic()."""

    index: int
    began: float
    ready: bool = False


class Supervisor:
    """Runs `count` processes until it is told to end, or until one cannot even start at first.

    The first is alone until it serves, so that what is wrong is told once. `serving` is called when
    all serve for the first time, `closing` when no others are to be accepted; neither may raise.
    """

    def __init__(
        self,
        role: Role,
        count: int,
        *,
        reloads: bool,
        serving: Callable[[], None],
        closing: Callable[[], None],
    ) -> None:
        self._role = role
        self._count = count
        self._reloads = reloads
        self._serving = serving
        self._closing = closing
        self._running: dict[int, Child] = {}
        self._due = {0: 0.0}
        self._pauses = [0.0] * count
        self._complete = self._ending = False
        self._status = 0

    def run(self) -> int:
        """The exit status of all of it."""
        with contextlib.ExitStack() as stack:
            self._signals, self._readiness, self._life = (
                stack.enter_context(_pipe()) for _ in range(3)
            )
            stack.enter_context(self._heard())
            while self._running or self._due:
                self._begin_due()
                self._wait()
        return self._status

    @contextlib.contextmanager
    def _heard(self) -> Iterator[None]:
        """Signals wake `_wait`, and do nothing else."""
        before = {number: signal.signal(number, lambda *_: None) for number in HEARD}
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin_due(self) -> None:
        now = time.monotonic()
        for index in [index for index, due in self._due.items() if due <= now]:
            del self._due[index]
            pid = self._fork(index)
            self._running[pid] = Child(index, now)

    def _wait(self) -> None:
        """Until something happens, or a process is due."""
        pause = None
        if self._due:
            pause = max(0.0, min(self._due.values()) - time.monotonic())
        readable, _, _ = select.select([self._signals[0], self._readiness[0]], [], [], pause)
        if self._readiness[0] in readable:  # before it is found out that one of them has ended
            self._note_ready(os.read(self._readiness[0], 4096))
        if self._signals[0] in readable:
            for number in os.read(self._signals[0], 4096):
                self._obey(number)
        self._reap()

    def _note_ready(self, indexes: bytes) -> None:
        for child in self._running.values():
            child.ready = child.ready or child.index in indexes
        if self._complete or self._ending:
            return
        ready = {child.index for child in self._running.values() if child.ready}
        if len(ready) == self._count:
            self._complete = True
            self._serving()
        elif len(self._running) == 1:
            self._due.update((index, 0.0) for index in range(1, self._count))

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP and self._reloads:
            self._tell(signal.SIGHUP)
        elif number in (*ENDS, signal.SIGHUP):
            self._end(number)

    def _end(self, number: int) -> None:
        """Have all finish what they do; a second SIGINT has them end at once, as with one."""
        if not self._ending:
            self._ending = True
            self._due.clear()
            self._closing()
        self._tell(signal.SIGTERM if number == signal.SIGHUP else number)

    def _tell(self, number: int) -> None:
        for pid in self._running:
            os.kill(pid, number)  # it may have ended, but is not forgotten before it is reaped

    def _reap(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._note_end(pid, self._running.pop(pid), os.waitstatus_to_exitcode(status))

    def _note_end(self, pid: int, child: Child, code: int) -> None:
        """`code` is an exit status, or a signal's number below 0."""
        if self._ending:
            self._status = self._status or _as_status(code)
        elif self._complete or child.ready:
            self._replace(pid, child, code)
        else:
            self._status = _as_status(code) or 1
            self._end(signal.SIGTERM)

    def _replace(self, pid: int, child: Child, code: int) -> None:
        """At once, but for one that keeps ending soon after its start."""
        first, most = PAUSES
        quick = time.monotonic() - child.began < STEADY
        pause = self._pauses[child.index] if quick else 0.0
        self._pauses[child.index] = min(max(2 * pause, first), most)
        self._due[child.index] = time.monotonic() + pause
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        log.error(
            "process %d (pid %d) ended %s; replaced after %.1f s", child.index, pid, how, pause
        )

    def _fork(self, index: int) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        try:
            pid = os.fork()
            if pid == 0:
                self._be(index, before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def _be(self, index: int, mask: set[int]) -> None:
        """The life of a child; it does not come back. The signals are those of the start again."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor, which tells the others
            signal.set_wakeup_fd(-1)
            for number in HEARD - {signal.SIGINT}:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # A server that can reload hears of it once it listens for signals.
            later = {signal.SIGHUP} if self._reloads else set()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask | later)
            for fd in (*self._signals, self._readiness[0], self._life[1]):
                os.close(fd)
            replaces = self._complete or self._pauses[index] > 0
            status = self._role(Post(index, self._readiness[1], self._life[0], replaces))
            sys.stdout.flush()
        finally:
            os._exit(status)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Both ends, which nobody waits to write into."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def _as_status(code: int) -> int:
    """As a shell tells it."""
    return code if code >= 0 else 128 - code
