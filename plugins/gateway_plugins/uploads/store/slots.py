"""How many uploads of an owner are received at a time, over all processes of the gateway.

A slot is a byte of one file, which the process that has the slot locks. The kernel lets go the
locks of a process that is killed.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

LOOK = 0.1
"""Seconds between two looks whether another process has let a slot go."""

MOST = 1 << 20
"""Slots of an owner, whatever the options say."""


class Slots:
    """`path` is the file; methods raise OSError."""

    def __init__(self, path: Path) -> None:
        # One descriptor for all slots: to close any other one would let all of them go.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._rooms: defaultdict[str, _Room] = defaultdict(_Room)

    @contextlib.asynccontextmanager
    async def slot(self, owner: str, most: int) -> AsyncIterator[None]:
        """Hold one of the `most` slots of an owner; wait until one is free."""
        room = self._rooms[owner]
        room.users += 1
        try:
            number = await self._take(owner, room, min(most, MOST))
            try:
                yield
            finally:
                self._let_go(owner, room, number)
        finally:
            room.users -= 1
            if not room.users:
                del self._rooms[owner]

    async def _take(self, owner: str, room: "_Room", most: int) -> int:
        async with room.turn:  # those of this process that wait do so in their order
            while True:
                for number in range(most):
                    if number not in room.taken and self._lock(owner, number):
                        room.taken.add(number)
                        return number
                room.freed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await room.freed.wait()

    def _let_go(self, owner: str, room: "_Room", number: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _place_of(owner) + number)
        room.taken.remove(number)
        room.freed.set()

    def _lock(self, owner: str, number: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place_of(owner) + number)
        except (BlockingIOError, PermissionError):  # POSIX allows both for a lock of another
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)


class _Room:
    """The slots of an owner that this process has, and its requests that have or want one."""

    def __init__(self) -> None:
        self.users = 0
        self.taken: set[int] = set()
        self.turn = asyncio.Lock()
        self.freed = asyncio.Event()


def _place_of(owner: str) -> int:
    """Return where in the file the slots of an owner begin."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:5]) * MOST
