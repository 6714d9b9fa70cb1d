"""Records the calls in flight in a file that survives the process, without a commit for each.

A journal is a file beside the database, mapped into memory. The kernel keeps what is written there,
however the process ends; a power failure of the machine loses it. The first 512 bytes are the
HEADER; the rest is slots of 512 bytes, each for one call:

    byte 0            0: no call is in flight; 1: one is; 2: one whose work runs again in another
                      call if this process dies; written last when a call begins
    bytes 1 to 367    known at the start: a CRC-32, BEGUN, the key, the model, the source
    bytes 368 to 511  written later: a CRC-32 that continues the one before, NOTED, the worker;
                      finally how the call ended, just before its row is committed

The process that writes a journal holds an exclusive `flock` on it, which ends with the process.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypedDict
from zlib import crc32

from gateway_plugins.usage.ledger.model_names import OTHER

SLOT = 512
"""Bytes of a slot; a sector, which disks write whole."""

STEP = 256
"""Slots that the file grows by; this many bytes can be mapped separately on any machine."""

HEADER = b"calls in flight at a gateway, form 1\n".ljust(SLOT, b"\0")

BEGUN = struct.Struct("<16sdQBBB")
"""Id, Unix time, prompt tokens; lengths in bytes of the key, the model and the source."""

NOTED = struct.Struct("<QBBBQQQ")
"""Completion tokens, length in bytes of the worker's id, and the fields of Ended."""

SUM = struct.Struct("<I")
_pack_begun = struct.Struct("<16sdQ").pack  # as BEGUN, whose lengths are kept with the names
_pack_noted = NOTED.pack
FREE, IN_FLIGHT, REPEATABLE = range(3)
NOTED_AT = 368
NAMES_AT = 1 + SUM.size + BEGUN.size
WORKER_AT = NOTED_AT + SUM.size + NOTED.size
MAX_KEY_BYTES = 200
MAX_NAME_BYTES = 255

UNKNOWN = 255
"""The outcome of a call in flight."""

NAMES_KNOWN = 1_024
"""Names that are kept encoded; the keys, models and workers of most calls are few."""

YEAR_10000 = 253_402_300_800.0
"""Unix seconds; SQLite has no dates from then on."""

TRIES = 5


class Ended(NamedTuple):
    """How a call ended, with values as in the ledger's Row; `outcome` is UNKNOWN until then.

    `counted` has the row's `unread` as its second bit.
    """

    outcome: int
    counted: int
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int


NOT_ENDED = Ended(UNKNOWN, 1, 0, 0, 0)

EndedFields = tuple[int, int, int, int, int]
"""The fields of an Ended, in order; it is one itself."""


class Noted(NamedTuple):
    """A call as read from its slot. `worker` is "" if the slot has none.

    `repeatable`: its work runs again in another call, as its process has died.
    """

    id: bytes
    time: float
    key: str
    model: str
    source: str
    worker: str
    prompt_tokens: int
    completion_tokens: int
    ended: Ended = NOT_ENDED
    repeatable: bool = False


class _Later(TypedDict, total=False):
    worker: str
    completion_tokens: int
    ended: Ended


class Slot:
    """The place of one call, at the byte `at` of a mapped `step`; `begun` is its first CRC-32."""

    __slots__ = ("at", "begun", "step")

    def __init__(self, step: mmap.mmap, at: int) -> None:
        self.step = step
        self.at = at
        self.begun = 0


class Journal:
    """This process's journal beside `database`, for at most `most` calls at a time.

    `end` may be called in any thread, all other methods in a single one. Raises OSError.
    """

    def __init__(self, database: Path, most: int) -> None:
        self._path, self._fd = _created(database)
        self._most = most
        self._steps = 0
        self._free: list[Slot] = []
        self._count = 0
        self._closing = False
        try:
            self._grow()
        except BaseException:
            self.close()
            raise

    def begin(
        self,
        call_id: bytes,
        time: float,
        prompt: int,
        key: str,
        model: str,
        source: str,
        *,
        repeatable: bool = False,
    ) -> Slot | None:
        """Return a new slot for the call; None if no slot is left, and after `close`.

        A key is cut to MAX_KEY_BYTES bytes; a model whose name is too long for the remaining space
        becomes OTHER. `repeatable`: the call's work runs again if this process dies. Raises OSError
        if the file cannot grow.
        """
        if self._closing or not (self._free or self._grow()):
            return None
        names, size = _encoded(key, model, source)
        slot = self._free.pop()
        step, at = slot.step, slot.at
        text = _pack_begun(call_id, time, prompt) + names
        begun = slot.begun = crc32(text)
        step[at + 1 : at + size] = begun.to_bytes(4, "little") + text
        step[at] = REPEATABLE if repeatable else IN_FLIGHT
        return slot

    def note(self, slot: Slot, worker: str, tokens: int, ended: EndedFields = NOT_ENDED) -> None:
        """Write the call's worker, the completion tokens so far, and how the call `ended`.

        A long worker id is cut.
        """
        at = slot.at
        name, length = _encoded_worker(worker)
        text = _pack_noted(tokens, length, *ended) + name
        told = crc32(text, slot.begun).to_bytes(4, "little")
        slot.step[at + NOTED_AT : at + WORKER_AT + length] = told + text

    def end(self, *slots: Slot) -> None:
        """Free the slots: the rows of their calls are committed, or known to be lost."""
        for slot in slots:
            slot.step[slot.at] = FREE
        self._free.extend(slots)
        if self._closing:
            self._remove_when_empty()

    def close(self) -> None:
        """Accept no more calls. The file is removed once those in flight have ended."""
        self._closing = True
        os.close(self._fd)  # the mappings keep the lock
        self._remove_when_empty()

    def _grow(self) -> bool:
        """Add slots; return False if there are `most` already. Raises OSError."""
        if self._count >= self._most:
            return False
        first = self._steps * STEP
        # Writing to a mapped page for which the disk has no room would kill the process.
        os.posix_fallocate(self._fd, first * SLOT, STEP * SLOT)
        step = mmap.mmap(self._fd, STEP * SLOT, offset=first * SLOT)
        self._steps += 1
        places = range(max(first, 1), min(first + STEP, self._most + 1))
        self._free.extend(Slot(step, place % STEP * SLOT) for place in reversed(places))
        self._count += len(places)
        return True

    def _remove_when_empty(self) -> None:
        if len(self._free) == self._count:
            with contextlib.suppress(OSError):  # another process may remove the empty file
                self._path.unlink()


def _created(database: Path) -> tuple[Path, int]:
    """Create and lock a file with a header; return path and descriptor. Raises OSError."""
    for _ in range(TRIES):
        path = database.with_name(f"{database.name}-calls-{os.getpid()}-{secrets.token_hex(4)}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            if try_lock(path, fd):
                os.pwrite(fd, HEADER, 0)
                return path, fd
        except OSError:
            path.unlink(missing_ok=True)
            os.close(fd)
            raise
        os.close(fd)
    raise BlockingIOError(errno.EAGAIN, "others take each new file for one that was left")


def try_lock(path: Path, fd: int) -> bool:
    """Take the lock of `path`, opened as `fd`.

    False if another process holds the lock, or has removed the file. Raises OSError if the file
    system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(path.stat(), os.fstat(fd))
    except (BlockingIOError, FileNotFoundError):
        return False


@lru_cache(maxsize=NAMES_KNOWN)
def _encoded(key: str, model: str, source: str) -> tuple[bytes, int]:
    """Cut names that are too long.

    Returns the length of each in bytes, with all their bytes, and where these end in a slot.
    """
    whose, kind = key.encode(errors="replace")[:MAX_KEY_BYTES], source.encode()
    name = model.encode(errors="replace")
    if len(name) > min(NOTED_AT - NAMES_AT - len(whose) - len(kind), MAX_NAME_BYTES):
        name = OTHER.encode()
    lengths = bytes((len(whose), len(name), len(kind)))
    names = whose + name + kind
    return lengths + names, NAMES_AT + len(names)


@lru_cache(maxsize=NAMES_KNOWN)
def _encoded_worker(worker: str) -> tuple[bytes, int]:
    """Cut the id of a worker if it is too long; return its bytes, and how many they are."""
    name = worker.encode(errors="replace")[: SLOT - WORKER_AT]
    return name, len(name)


def read(slots: bytes) -> tuple[list[Noted], int]:
    """Return the calls in flight in these slots, and the number of slots that are unreadable."""
    found, senseless = [], 0
    for at in range(0, len(slots), SLOT):
        if slots[at] == FREE:
            continue
        call = _call_in(slots[at : at + SLOT])
        if call is None:
            senseless += 1
        else:
            found.append(call)
    return found, senseless


def _call_in(slot: bytes) -> Noted | None:
    if slot[0] not in (IN_FLIGHT, REPEATABLE) or len(slot) < SLOT:
        return None
    call_id, time, prompt, *lengths = BEGUN.unpack_from(slot, 1 + SUM.size)
    end = NAMES_AT + sum(lengths)
    begun = SUM.unpack_from(slot, 1)[0]
    if end > NOTED_AT or crc32(slot[1 + SUM.size : end]) != begun or not 0 <= time < YEAR_10000:
        return None
    key, model, source = _texts(slot[NAMES_AT:end], lengths)
    return Noted(call_id, time, key, model, source, "", prompt, 0)._replace(
        repeatable=slot[0] == REPEATABLE, **_noted_in(slot, begun)
    )


def _noted_in(slot: bytes, begun: int) -> _Later:
    """Return the later part of a slot.

    Empty if it belongs to an earlier call, or if the process died while it wrote.
    """
    tokens, length, *ended = NOTED.unpack_from(slot, NOTED_AT + SUM.size)
    end = WORKER_AT + length
    told = SUM.unpack_from(slot, NOTED_AT)[0]
    if end > SLOT or crc32(slot[NOTED_AT + SUM.size : end], begun) != told:
        return {}
    worker = slot[WORKER_AT:end].decode(errors="ignore")
    return {"worker": worker, "completion_tokens": tokens, "ended": Ended(*ended)}


def _texts(names: bytes, lengths: Sequence[int]) -> Iterator[str]:
    """Split names that are stored one after the other; drop a character that was cut."""
    at = 0
    for length in lengths:
        yield names[at : at + length].decode(errors="ignore")
        at += length
