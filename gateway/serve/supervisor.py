"""The process that starts the others, replaces those that crash, and forwards signals.

It serves no requests and has no threads and no event loop, so that it can fork at any time and
hardly anything in it can fail.
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

STEADY_AFTER = 10.0
"""Run time in seconds from which the end of a process no longer counts as quick."""

PAUSES = (0.5, 10.0)
"""Seconds before a process that keeps ending quickly is replaced: first pause, longest pause."""

ENDS = frozenset({signal.SIGINT, signal.SIGTERM})
HEARD = frozenset({*ENDS, signal.SIGHUP, signal.SIGCHLD})


class Post(msgspec.Struct, frozen=True):
    """The place that a process fills. `replaces`: another process had this index before.

    `ready` is a pipe into which the process writes its index as one byte once it serves. `life` is
    a pipe that carries nothing but its end, when the supervisor has ended.
    """

    index: int
    ready: int
    life: int
    replaces: bool


Role = Callable[[Post], int]
"""The life of a process; returns its exit status."""


class Child(msgspec.Struct):
    """A running process; `began` is a time of time.monotonic()."""

    index: int
    began: float
    ready: bool = False


class Supervisor:
    """Runs `count` processes until a signal ends it, or until one of the first ones cannot start.

    The first process is alone until it serves, so that a problem is reported once. `serving` is
    called when all processes serve for the first time, `closing` when no more connections are to be
    accepted. Neither may raise.
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
        """Run until all processes have ended; return the exit status for all of them."""
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
        """Let signals wake `_wait`, and do nothing else."""
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
        """Wait until something happens, or until a process is due."""
        pause = None
        if self._due:
            pause = max(0.0, min(self._due.values()) - time.monotonic())
        readable, _, _ = select.select([self._signals[0], self._readiness[0]], [], [], pause)
        if self._readiness[0] in readable:  # before _reap drops a child that was ready
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
        """Let all processes finish their work; a second SIGINT ends them at once."""
        if not self._ending:
            self._ending = True
            self._due.clear()
            self._closing()
        self._tell(signal.SIGTERM if number == signal.SIGHUP else number)

    def _tell(self, number: int) -> None:
        for pid in self._running:
            os.kill(pid, number)  # safe if it has ended: its pid is not reused before it is reaped

    def _reap(self) -> None:
        for pid, child in list(self._running.items()):
            changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not changed:
                continue
            if os.WIFSTOPPED(status) or os.WIFCONTINUED(status):
                _report_stop(pid, child, stopped=os.WIFSTOPPED(status))
            else:
                self._note_end(pid, self._running.pop(pid), os.waitstatus_to_exitcode(status))

    def _note_end(self, pid: int, child: Child, code: int) -> None:
        """`code` is an exit status, or a negative signal number."""
        if self._ending:
            self._status = self._status or _as_status(code)
        elif self._complete or child.ready:
            self._replace(pid, child, code)
        else:
            self._status = _as_status(code) or 1
            self._end(signal.SIGTERM)

    def _replace(self, pid: int, child: Child, code: int) -> None:
        """Replace it at once, or after a pause if it keeps ending soon after its start."""
        first, most = PAUSES
        quick = time.monotonic() - child.began < STEADY_AFTER
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
        """Run a child; never returns. Signal handlers are set back to those of the start."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C must reach only the supervisor, which forwards it
            signal.set_wakeup_fd(-1)
            for number in HEARD - {signal.SIGINT}:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # SIGHUP stays blocked until a server that can reload handles signals.
            later = {signal.SIGHUP} if self._reloads else set()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask | later)
            for fd in (*self._signals, self._readiness[0], self._life[1]):
                os.close(fd)
            replaces = self._complete or self._pauses[index] > 0
            status = self._role(Post(index, self._readiness[1], self._life[0], replaces))
            sys.stdout.flush()
        finally:
            os._exit(status)


def _report_stop(pid: int, child: Child, *, stopped: bool) -> None:
    if stopped:
        log.warning(
            "process %d (pid %d) was stopped by a signal; its connections wait until it continues",
            child.index,
            pid,
        )
    else:
        log.warning("process %d (pid %d) continues", child.index, pid)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe; writing to it never blocks."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def _as_status(code: int) -> int:
    """Exit status as a shell reports it."""
    return code if code >= 0 else 128 - code
