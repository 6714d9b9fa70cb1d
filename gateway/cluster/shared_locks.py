"""Locks that the processes of one gateway share, and that no stopped process can keep.

A lock is flock on a file: the kernel releases it if its process dies, and it costs less than
fcntl's byte-range locks. A process that is stopped (SIGSTOP, a debugger, a freezer) keeps it. So
each lock has a generation, a number in a file that all processes map. A process that has tried in
vain for long raises the generation, and the lock is from then on another file. The process that
held it finds out when it goes on: see `is_lost`.
"""

import contextlib
import fcntl
import logging
import mmap
import os
from pathlib import Path
from struct import Struct
from time import sleep

log = logging.getLogger("gateway")

SPINS = 50
"""Tries that only give up the processor, before the first one that sleeps."""

PAUSE = 0.0005
"""Seconds between two later tries."""

TRIES = 500
"""Tries after which a lock is taken from its holder, about 0.25 s. No process works inside a lock
for 1 ms. Time does not count: it goes on while the waiting process is stopped itself."""

_NUMBER = Struct("=I")
"""Generation of a lock, or process id of its latest holder: never written together."""


class SharedLocks:
    """`count` locks in files that begin with `path`; each process, and thread, opens its own.

    Raises OSError if the files cannot be created. Between `acquire` and `release` nothing may be
    awaited.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._pid = os.getpid()
        self._generations = [0] * count
        with contextlib.ExitStack() as files:
            state = open_shared(path, files)
            os.ftruncate(state, 2 * _NUMBER.size * count)
            self._map = mmap.mmap(state, 2 * _NUMBER.size * count)
            self._files = [open_shared(self._place(number, 0), files) for number in range(count)]
            self._stack = files.pop_all()

    def acquire(self, number: int) -> None:
        while True:
            if not _try_lock(self._files[number]):
                self._wait(number)
            generation = self._generation(number)
            if generation == self._generations[number]:
                _NUMBER.pack_into(self._map, self._holder_at(number), self._pid)
                return
            self._follow(number, generation)

    def release(self, number: int) -> None:
        fcntl.flock(self._files[number], fcntl.LOCK_UN)

    def is_lost(self, number: int) -> bool:
        """Whether another process has taken the lock meanwhile, because this one was stopped."""
        return self._generation(number) != self._generations[number]

    def close(self) -> None:
        self._map.close()
        self._stack.close()

    def _wait(self, number: int) -> None:
        """Return once the lock is free, or is another file because its holder does not go on."""
        for tries in range(TRIES):
            if _try_lock(self._files[number]) or self.is_lost(number):
                return
            if tries < SPINS:
                os.sched_yield()
            else:
                sleep(PAUSE)
        self._take_away(number)

    def _take_away(self, number: int) -> None:
        """Raise the generation by one: several processes that do so at a time agree."""
        generation = self._generation(number)
        if generation == self._generations[number]:
            log.warning(
                "process %d has kept a lock that all processes share, as if it were stopped; "
                "the others go on without it",
                *_NUMBER.unpack_from(self._map, self._holder_at(number)),
            )
            _NUMBER.pack_into(self._map, number * _NUMBER.size, generation + 1)

    def _follow(self, number: int, generation: int) -> None:
        """Use the file of the present generation. Closing the other one releases it."""
        opened = open_shared(self._place(number, generation), self._stack)
        fcntl.flock(self._files[number], fcntl.LOCK_UN)
        self._files[number], self._generations[number] = opened, generation

    def _generation(self, number: int) -> int:
        generation: int = _NUMBER.unpack_from(self._map, number * _NUMBER.size)[0]
        return generation

    def _holder_at(self, number: int) -> int:
        return (len(self._files) + number) * _NUMBER.size

    def _place(self, number: int, generation: int) -> Path:
        return self._path.with_name(f"{self._path.name}{number}.{generation}")


def open_shared(path: Path, files: contextlib.ExitStack) -> int:
    """Open a file for reading and writing, created if needed; `files` closes the descriptor."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    files.callback(os.close, file)
    return file


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
