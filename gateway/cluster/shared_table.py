"""Numbers that all processes of one gateway share: rows of a file that each process maps.

A row is found by its key, like a line of a set-associative cache (M. D. Hill and A. J. Smith,
Evaluating Associativity in CPU Caches, IEEE Transactions on Computers 38(12), 1989): a digest of
the key determines the set, and the row may be at any place in that set. In a full set a new row
replaces the row that has rested longest. A set is read and changed under one of a few locks, see
gateway.cluster.shared_locks: no process that dies or is stopped keeps the others from it.

The file is sparse: one byte per set (whether the set is in use), then the sets. Each set has the
digests of its rows, then the rows. The kernel shows the same content to all processes.
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

from gateway.cluster.shared_locks import SharedLocks, open_shared

log = logging.getLogger("gateway")

SETS = 8_192

ROWS_PER_SET = 32
"""Rows per set. While half of all rows are in use, less than one set in five thousand is full."""

DIGEST = 16
"""Length in bytes of the digest that identifies a key."""

FREE_DIGEST = bytes(DIGEST)
"""Digest of a row that is not in use."""

IN_USE = b"\1"
"""Byte of a set that is in use."""

LOCKS = 16
"""Number of locks; each serves every sixteenth set."""

Numbers = tuple[Any, ...]
"""As `struct` returns them."""


class SharedTable:
    """A table in the file `path`, which is created if it does not exist.

    Each row has `size` bytes, all 0 in a new row; `size` is the same in all processes. `resting`
    returns the monotonic time in seconds since when a new row is as good as the given one; infinity
    if a new row is not as good. Each process, and each thread, opens its own table. Raises OSError
    if the table cannot be created.
    """

    def __init__(
        self, path: Path, size: int, resting: Callable[[bytes], float], *, sets: int = SETS
    ) -> None:
        self._name = path.name
        self._size = size
        self._resting = resting
        self._sets = sets
        self._set_bytes = ROWS_PER_SET * (DIGEST + size)
        self._warned = False
        with contextlib.ExitStack() as files:
            self._locks = SharedLocks(path.with_name(f"{path.name}.lock"), LOCKS)
            files.callback(self._locks.close)
            self._file = open_shared(path, files)
            self.map = self._mapped(sets + sets * self._set_bytes)
            self._files = files.pop_all()

    def row(self, key: str, lost: Callable[[], None] | None = None) -> "SharedRow":
        """Return the row of `key`. For `lost` see SharedRow."""
        digest = blake2b(key.encode(errors="replace"), digest_size=DIGEST).digest()
        return SharedRow(self, digest, int.from_bytes(digest[:4], "little") % self._sets, lost=lost)

    def in_use(self) -> Iterator["SharedRow"]:
        """Yield all rows in use, each of them entered until the next one is requested."""
        number = -1
        while (number := self.map.find(IN_USE, number + 1, self._sets)) >= 0:
            self.lock(number)
            try:
                for at, digest in self._digests(number):
                    if digest != FREE_DIGEST:
                        yield SharedRow(self, digest, number, place=self.place(number, at))
            finally:
                self.unlock(number)

    def close(self) -> None:
        """Close the files; from now on the table has no room for any row."""
        self.map.close()
        self._files.close()

    # used by the rows

    def lock(self, number: int) -> None:
        """Lock a set."""
        self._locks.acquire(number % LOCKS)

    def unlock(self, number: int) -> None:
        self._locks.release(number % LOCKS)

    def is_lost(self, number: int) -> bool:
        """Whether another process has taken the lock away."""
        return self._locks.is_lost(number % LOCKS)

    def start(self, number: int) -> int:
        """Offset in the file at which the digests of a set begin."""
        return self._sets + number * self._set_bytes

    def place(self, number: int, at: int) -> int:
        """Offset in the file of the row whose digest is `at` bytes from the start of the set."""
        return self.start(number) + ROWS_PER_SET * DIGEST + at // DIGEST * self._size

    def made(self, number: int, digest: bytes) -> int | None:
        """Create a row in the set, which must be locked, and return its offset in the file.

        None if there is no room for the row.
        """
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
        """Allocate `size` bytes in the file system.

        Raises OSError if there is no space: the process would be killed if it touched mapped memory
        that has no space behind it.
        """
        if os.pwrite(self._file, bytes(size), at) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _digests(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Yield each digest of the set, after its offset in bytes from the start of the set."""
        start = self.start(number)
        all_of_them = self.map[start : start + ROWS_PER_SET * DIGEST]
        for at in range(0, ROWS_PER_SET * DIGEST, DIGEST):
            yield at, all_of_them[at : at + DIGEST]

    def _room(self, number: int) -> int | None:
        """Offset of the digest of a free row, or of the replaceable row that has rested longest."""
        longest, found = monotonic(), None
        for at, digest in self._digests(number):
            if digest == FREE_DIGEST:
                return at
            place = self.place(number, at)
            since = self._resting(self.map[place : place + self._size])
            if since <= longest:
                longest, found = since, at
        return found

    def _complain(self, why: str) -> None:
        """Warn that some rows have no place; only once."""
        if not self._warned:
            self._warned = True
            log.warning("no room for some of the %s that the processes share: %s", self._name, why)


class SharedRow:
    """The row of one key, usable only inside `with`: nobody else reads or changes it meanwhile.

    Inside the block nothing may be awaited, and no other row entered. If this process is stopped
    inside the block, another one may take the lock away. Then nothing more is written, and `lost`
    is called inside a block of its own, to write what only this process knows.
    """

    __slots__ = ("_digest", "_lost", "_map", "_number", "_place", "_start", "_table")

    def __init__(
        self,
        table: SharedTable,
        digest: bytes,
        number: int,
        *,
        place: int | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self._table = table
        self._map = table.map
        self._digest = digest
        self._number = number
        self._start = table.start(number)
        self._place = place
        self._lost = lost

    def __enter__(self) -> None:
        if self._map.closed:
            return
        self._table.lock(self._number)
        start = self._start
        try:
            at = self._map.find(self._digest, start, start + ROWS_PER_SET * DIGEST) - start
            if at >= 0:
                self._place = self._table.place(self._number, at)
            else:
                self._place = self._table.made(self._number, self._digest)
        finally:
            if self._place is None:
                self._table.unlock(self._number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._place is not None:
            self._place = None
            if not self._map.closed:
                lost = self._table.is_lost(self._number)
                self._table.unlock(self._number)
                if lost and self._lost is not None:
                    with self:
                        self._lost()

    def read(self, fields: struct.Struct, at: int = 0) -> Numbers | None:
        """Return the numbers that begin `at` bytes from the start of the row.

        None if the table has no room for the row: this process then has only its own numbers.
        """
        return None if self._place is None else fields.unpack_from(self._map, self._place + at)

    def write(self, fields: struct.Struct, numbers: Iterable[Any], at: int = 0) -> None:
        """Write `numbers` at `at` bytes from the start of the row, if the table has the row."""
        if self._place is not None and not self._table.is_lost(self._number):
            fields.pack_into(self._map, self._place + at, *numbers)
