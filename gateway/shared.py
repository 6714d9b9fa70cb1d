"""Numbers that all processes of one gateway share: rows of a file that each of them has mapped.

A row is found by its key, as a line of a set-associative cache is (M. D. Hill and A. J. Smith,
Evaluating Associativity in CPU Caches, IEEE Transactions on Computers 38(12), 1989): a digest of
the key says in which set it is, and there it may be in any place. In a full set the row gives way
that has rested longest. A set is looked at and changed under a lock of the kernel's, which goes
with a process that dies, whatever it was doing: flock, on one of a few files beside the table, for
that costs less than fcntl's locks of bytes do.

The file is sparse: a byte for each set, whether it is in use, and then the sets, each of them the
digests of its rows and the rows. The kernel sees to it that all processes see the same.
"""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

log = logging.getLogger("gateway")

SETS = 8_192

WAYS = 32
"""Rows of a set. While half of all rows are in use, less than one set in five thousand is full."""

DIGEST = 16
"""Bytes by which a key is told from others."""

FREE = bytes(DIGEST)
"""In the place of the digest of a row that is not in use."""

IN_USE = b"\1"
"""In the byte of such a set."""

LOCKS = 16
"""One of them is for every sixteenth set."""

Numbers = tuple[Any, ...]
"""As `struct` gives them."""


class SharedTable:
    """A table in the file `path`, which is made where it is not there.

    Its rows are of `size` bytes, all 0 in a new one, and the same in all processes. `resting` says
    of a row since when, in monotonic seconds, a new one is as good: infinity where it is not. Each
    process, and each thread, opens one of its own. Raises OSError where it cannot be made.
    """

    def __init__(
        self, path: Path, size: int, resting: Callable[[bytes], float], *, sets: int = SETS
    ) -> None:
        self._name = path.name
        self._size = size
        self._resting = resting
        self._sets = sets
        self._set_bytes = WAYS * (DIGEST + size)
        self._warned = False
        with contextlib.ExitStack() as files:
            self._locks = [
                _opened(path.with_name(f"{path.name}.lock{number}"), files)
                for number in range(LOCKS)
            ]
            self._file = _opened(path, files)
            self.map = self._mapped(sets + sets * self._set_bytes)
            self._files = files.pop_all()

    def row(self, key: str) -> "SharedRow":
        digest = blake2b(key.encode(errors="replace"), digest_size=DIGEST).digest()
        return SharedRow(self, digest, int.from_bytes(digest[:4], "little") % self._sets)

    def in_use(self) -> Iterator["SharedRow"]:
        """All rows there are, each of them entered while it is looked at."""
        number = -1
        while (number := self.map.find(IN_USE, number + 1, self._sets)) >= 0:
            fcntl.flock(self.lock_of(number), fcntl.LOCK_EX)
            try:
                for at, digest in self._digests(number):
                    if digest != FREE:
                        yield SharedRow(self, digest, number, self.place(number, at))
            finally:
                fcntl.flock(self.lock_of(number), fcntl.LOCK_UN)

    def close(self) -> None:
        """From now on it has no room for any row."""
        self.map.close()
        self._files.close()

    # for its rows

    def lock_of(self, number: int) -> int:
        return self._locks[number % LOCKS]

    def start(self, number: int) -> int:
        """Where the digests of a set begin."""
        return self._sets + number * self._set_bytes

    def place(self, number: int, at: int) -> int:
        """Of the row whose digest is `at` bytes from the start of the set."""
        return self.start(number) + WAYS * DIGEST + at // DIGEST * self._size

    def made(self, number: int, digest: bytes) -> int | None:
        """The place of a new row in the set, which is locked; None: there is no room for it."""
        start = self.start(number)
        if not self.map[number]:
            try:
                self._take(start, self._set_bytes)
            except OSError as error:
                self._complain(str(error))
                return None
            self.map[number : number + 1] = IN_USE
        at = self._room(number)
        if at is None:
            self._complain("too many are in use")
            return None
        place = self.place(number, at)
        self.map[place : place + self._size] = bytes(self._size)
        self.map[start + at : start + at + DIGEST] = digest
        return place

    def _mapped(self, size: int) -> mmap.mmap:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if os.fstat(self._file).st_size < size:
                self._take(0, self._sets)
                os.ftruncate(self._file, size)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return mmap.mmap(self._file, size)

    def _take(self, at: int, size: int) -> None:
        """Have the disk give so many bytes. Raises OSError where it has none: where memory without
        a disk behind it was touched, the process would be killed."""
        if os.pwrite(self._file, bytes(size), at) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _digests(self, number: int) -> Iterator[tuple[int, bytes]]:
        """And how far from the start of the set they are."""
        start = self.start(number)
        all_of_them = self.map[start : start + WAYS * DIGEST]
        for at in range(0, WAYS * DIGEST, DIGEST):
            yield at, all_of_them[at : at + DIGEST]

    def _room(self, number: int) -> int | None:
        """A place that is free, or that of the row that has rested longest."""
        longest, found = monotonic(), None
        for at, digest in self._digests(number):
            if digest == FREE:
                return at
            place = self.place(number, at)
            since = self._resting(self.map[place : place + self._size])
            if since <= longest:
                longest, found = since, at
        return found

    def _complain(self, why: str) -> None:
        """Once: there are rows without a place."""
        if not self._warned:
            self._warned = True
            log.warning("no room for some of the %s that the processes share: %s", self._name, why)


class SharedRow:
    """The row of one key, in `with` alone: nobody else sees or changes it meanwhile.

    Nothing may be awaited in there, and no other row entered.
    """

    __slots__ = ("_digest", "_lock", "_map", "_number", "_place", "_start", "_table")

    def __init__(
        self, table: SharedTable, digest: bytes, number: int, place: int | None = None
    ) -> None:
        self._table = table
        self._map = table.map
        self._digest = digest
        self._number = number
        self._lock = table.lock_of(number)
        self._start = table.start(number)
        self._place = place

    def __enter__(self) -> None:
        if self._map.closed:
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        start = self._start
        try:
            at = self._map.find(self._digest, start, start + WAYS * DIGEST) - start
            if at >= 0:
                self._place = self._table.place(self._number, at)
            else:
                self._place = self._table.made(self._number, self._digest)
        finally:
            if self._place is None:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._place is not None:
            self._place = None
            if not self._map.closed:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def read(self, fields: struct.Struct, at: int = 0) -> Numbers | None:
        """Those `at` so many bytes from its start; None where the table has no room for the row, so
        that this process has its own alone."""
        return None if self._place is None else fields.unpack_from(self._map, self._place + at)

    def write(self, fields: struct.Struct, numbers: Iterable[Any], at: int = 0) -> None:
        """Put these there, where there is a row."""
        if self._place is not None:
            fields.pack_into(self._map, self._place + at, *numbers)


def _opened(path: Path, files: contextlib.ExitStack) -> int:
    """A descriptor that is closed with the others."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    files.callback(os.close, file)
    return file
