"""The calls in flight, written where they outlive the process, without a commit for each.

A journal is a file beside the database, mapped into memory. The kernel keeps what is written there,
however the process ends; with the machine's power it goes. The first 512 bytes are the HEADER, and
all others slots of 512 bytes, each of one call:

    byte 0            1: a call is in flight, 0: none; written last when one begins
    bytes 1 to 367    what is known as it begins: a CRC-32, BEGUN, the key, the model, the source
    bytes 368 to 511  what is noted later: a CRC-32 that goes on from the one before, NOTED, the
                      worker; at last how it ended, which is in the books a moment later

Whoever writes it has an exclusive `flock` on it, which ends with the process.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict
from zlib import crc32

from gateway_plugins.usage.names import OTHER

SLOT = 512
"""Bytes; a sector, which disks write whole."""

STEP = 256
"""Slots that the file grows by; so many bytes can be mapped by themselves on any machine."""

HEADER = b"calls in flight at a gateway, form 1\n".ljust(SLOT, b"\0")

BEGUN = struct.Struct("<16sdQBBB")
"""Id, Unix time, tokens of the prompt, bytes of the key, of the model and of the source."""

NOTED = struct.Struct("<QBBBQQQ")
"""Tokens of the completion, bytes of the worker's id, and what Ended has."""

SUM = struct.Struct("<I")
IN_FLIGHT, FREE = 1, 0
NOTED_AT = 368
NAMES_AT = 1 + SUM.size + BEGUN.size
WORKER_AT = NOTED_AT + SUM.size + NOTED.size
LONGEST_KEY = 200
LONGEST_NAME = 255
SHORT = 100
"""A model's name of so many bytes fits with any key."""

UNKNOWN = 255
"""The outcome of a call in flight."""

YEAR_10000 = 253_402_300_800.0
"""In Unix seconds; SQLite knows no days from then on."""

TRIES = 5


class Ended(NamedTuple):
    """How a call ended, as the ledger's Row has it; an `outcome` of UNKNOWN: it has not."""

    outcome: int
    counted: int
    prompt_tokens: int
    cached_tokens: int
    reasoning_tokens: int


NOT_ENDED = Ended(UNKNOWN, 1, 0, 0, 0)


class Noted(NamedTuple):
    """A call as its slot has it. `worker` is "" where none was noted."""

    id: bytes
    time: float
    key: str
    model: str
    source: str
    worker: str
    prompt_tokens: int
    completion_tokens: int
    ended: Ended = NOT_ENDED


class _Later(TypedDict, total=False):
    worker: str
    completion_tokens: int
    ended: Ended


class Journal:
    """That of this process, beside `database`, for `most` calls at a time. Raises OSError.

    `end` may be called in any thread, all else in one.
    """

    def __init__(self, database: Path, most: int) -> None:
        self._path, self._fd = _created(database)
        self._most = most
        self._steps: list[mmap.mmap] = []
        self._free: list[int] = []
        self._count = 0
        self._closing = False
        try:
            self._grow()
        except BaseException:
            self.close()
            raise

    def begin(
        self, call_id: bytes, time: float, prompt: int, key: str, model: str, source: str
    ) -> int | None:
        """The slot of the call; None where there is none left, and after `close`.

        A key is cut to LONGEST_KEY bytes; a model whose name is too long for what that leaves is
        OTHER. Raises OSError where the file cannot grow.
        """
        text = _begun(call_id, time, prompt, key, model, source)
        if self._closing or not (self._free or self._grow()):
            return None
        slot = self._free.pop()
        step, at = self._steps[slot // STEP], slot % STEP * SLOT
        step[at + 1 : at + 1 + len(text)] = text
        step[at] = IN_FLIGHT
        return slot

    def note(self, slot: int, worker: str, tokens: int, ended: Ended = NOT_ENDED) -> None:
        """Write whom the call is with, how many tokens have come, and how it `ended`.

        A long id is cut.
        """
        step, at = self._steps[slot // STEP], slot % STEP * SLOT
        name = worker.encode(errors="replace")[: SLOT - WORKER_AT]
        text = NOTED.pack(tokens, len(name), *ended) + name
        before = SUM.unpack_from(step, at + 1)[0]
        text = SUM.pack(crc32(text, before)) + text
        step[at + NOTED_AT : at + NOTED_AT + len(text)] = text

    def end(self, slot: int) -> None:
        """The call is in the books, or known to be in none."""
        self._steps[slot // STEP][slot % STEP * SLOT] = FREE
        self._free.append(slot)
        if self._closing:
            self._remove_when_empty()

    def close(self) -> None:
        """No more calls begin. The file is removed once those in flight have ended."""
        self._closing = True
        os.close(self._fd)  # what is mapped keeps the lock
        self._remove_when_empty()

    def _grow(self) -> bool:
        """Whether there are more slots now. Raises OSError."""
        if self._count >= self._most:
            return False
        first = len(self._steps) * STEP
        # To write to a page for which the disk has no room would kill the process.
        os.posix_fallocate(self._fd, first * SLOT, STEP * SLOT)
        self._steps.append(mmap.mmap(self._fd, STEP * SLOT, offset=first * SLOT))
        slots = range(max(first, 1), min(first + STEP, self._most + 1))
        self._free.extend(reversed(slots))
        self._count += len(slots)
        return True

    def _remove_when_empty(self) -> None:
        if len(self._free) == self._count:
            with contextlib.suppress(OSError):  # found empty, whoever removes it
                self._path.unlink()


def _created(database: Path) -> tuple[Path, int]:
    """A file with a header, locked, and its descriptor. Raises OSError."""
    for _ in range(TRIES):
        path = database.with_name(f"{database.name}-calls-{os.getpid()}-{secrets.token_hex(4)}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            if is_locked(path, fd):
                os.pwrite(fd, HEADER, 0)
                return path, fd
        except OSError:
            path.unlink(missing_ok=True)
            os.close(fd)
            raise
        os.close(fd)
    raise BlockingIOError(errno.EAGAIN, "others take each new file for one that was left")


def is_locked(path: Path, fd: int) -> bool:
    """Take the lock of `path`, opened as `fd`; False: another has it, or has removed the file.

    Raises OSError, where the file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(path.stat(), os.fstat(fd))
    except (BlockingIOError, FileNotFoundError):
        return False


def _begun(call_id: bytes, time: float, prompt: int, key: str, model: str, source: str) -> bytes:
    whose, name, kind = len(key), len(model), len(source)
    names = (key + model + source).encode("utf-8", "replace")
    if len(names) > whose + name + kind or whose > LONGEST_KEY or name > SHORT:
        whose, name, kind, names = _cut(key, model, source)
    text = BEGUN.pack(call_id, time, prompt, whose, name, kind) + names
    return SUM.pack(crc32(text)) + text


def _cut(key: str, model: str, source: str) -> tuple[int, int, int, bytes]:
    """Names that are long, or not ASCII: the bytes of each, then all of them."""
    whose, kind = key.encode(errors="replace")[:LONGEST_KEY], source.encode()
    name = model.encode(errors="replace")
    if len(name) > min(NOTED_AT - NAMES_AT - len(whose) - len(kind), LONGEST_NAME):
        name = OTHER.encode()
    return len(whose), len(name), len(kind), whose + name + kind


def read(slots: bytes) -> tuple[list[Noted], int]:
    """The calls that were in flight by these slots, and how many of the slots make no sense."""
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
    if slot[0] != IN_FLIGHT or len(slot) < SLOT:
        return None
    call_id, time, prompt, *lengths = BEGUN.unpack_from(slot, 1 + SUM.size)
    end = NAMES_AT + sum(lengths)
    begun = SUM.unpack_from(slot, 1)[0]
    if end > NOTED_AT or crc32(slot[1 + SUM.size : end]) != begun or not 0 <= time < YEAR_10000:
        return None
    key, model, source = _texts(slot[NAMES_AT:end], lengths)
    return Noted(call_id, time, key, model, source, "", prompt, 0)._replace(
        **_noted_in(slot, begun)
    )


def _noted_in(slot: bytes, begun: int) -> _Later:
    """Nothing where none of it is of this call, or the process died as it wrote."""
    tokens, length, *ended = NOTED.unpack_from(slot, NOTED_AT + SUM.size)
    end = WORKER_AT + length
    told = SUM.unpack_from(slot, NOTED_AT)[0]
    if end > SLOT or crc32(slot[NOTED_AT + SUM.size : end], begun) != told:
        return {}
    worker = slot[WORKER_AT:end].decode(errors="ignore")
    return {"worker": worker, "completion_tokens": tokens, "ended": Ended(*ended)}


def _texts(names: bytes, lengths: Sequence[int]) -> Iterator[str]:
    """Names that stand one after the other; a letter that was cut is left out."""
    at = 0
    for length in lengths:
        yield names[at : at + length].decode(errors="ignore")
        at += length
