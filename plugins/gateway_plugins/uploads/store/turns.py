"""Whose turn it is to write an upload: one request at a time, the latest one first.

A request that wants an upload asks those before it to stop, and waits until they have: the caller
of a request that still runs may be long gone, and its connection not be known to be dead. Other
processes are asked too; that they have stopped is seen by a `flock` on the upload's file.
"""

import asyncio
import contextlib
import fcntl
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from gateway import CallError, NotFound, Peers, Topic

STOP = Topic("uploads", "stop")

LOOK = 0.05
"""Seconds between two looks whether another process has stopped."""

ASK_AGAIN = 1.0


class UploadLocked(CallError):
    """Another request of the upload does not stop."""

    status = 423
    code = "upload_locked"
    type = "invalid_request_error"


class Turn:
    """The turn of one request. `fd` is the upload's file. `is_asked`: another request waits."""

    def __init__(self) -> None:
        self.fd = -1
        self.is_asked = False
        self.when_asked: Callable[[], None] = _nothing

    def ask(self) -> None:
        """Ask the request to stop."""
        self.is_asked = True
        self.when_asked()


class Turns:
    """The turns of this process, and through `peers` those of the others."""

    def __init__(self, peers: Peers, hand_over: float) -> None:
        self._peers = peers
        self._hand_over = hand_over
        self._turns: defaultdict[str, list[Turn]] = defaultdict(list)
        self._locks: dict[str, asyncio.Lock] = {}
        self.is_stopping = False
        peers.handle(STOP, self._stop_for_another)

    def stop_all(self) -> None:
        """Ask all requests to stop, now and from now on: the gateway shuts down."""
        self.is_stopping = True
        for turns in self._turns.values():
            for turn in turns:
                turn.ask()

    async def _stop_for_another(self, content: bytes) -> bytes:
        self._ask(content.decode())
        return b""

    def _ask(self, upload_id: str) -> None:
        for turn in self._turns.get(upload_id, ()):
            turn.ask()

    @contextlib.asynccontextmanager
    async def turn(self, upload_id: str, path: Path) -> AsyncIterator[Turn]:
        """Yield the turn of this request at the upload with the file `path`.

        Raises UploadLocked, NotFound if there is no file, and OSError.
        """
        self._ask(upload_id)
        turn = Turn()
        turn.is_asked = self.is_stopping
        self._turns[upload_id].append(turn)
        lock = self._locks.setdefault(upload_id, asyncio.Lock())
        try:
            async with self._held(lock, upload_id, path, turn):
                yield turn
        finally:
            self._turns[upload_id].remove(turn)
            if not self._turns[upload_id]:
                del self._turns[upload_id], self._locks[upload_id]

    @contextlib.asynccontextmanager
    async def _held(
        self, lock: asyncio.Lock, upload_id: str, path: Path, turn: Turn
    ) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._hand_over):
                await lock.acquire()
        except TimeoutError:
            raise _locked() from None
        try:
            turn.fd = _open(path)
            try:
                await self._lock_file(turn.fd, upload_id)
                yield
            finally:
                os.close(turn.fd)
        finally:
            lock.release()

    async def _lock_file(self, fd: int, upload_id: str) -> None:
        loop = asyncio.get_running_loop()
        ends, next_asking = loop.time() + self._hand_over, 0.0
        while not _is_locked(fd):
            if loop.time() > ends:
                raise _locked()
            if loop.time() >= next_asking:
                next_asking = loop.time() + ASK_AGAIN
                await self._peers.request(STOP, upload_id.encode())
            await asyncio.sleep(LOOK)


def _locked() -> UploadLocked:
    return UploadLocked("another request of this upload does not stop; try again")


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotFound("there is no such upload any more") from None


def _is_locked(fd: int) -> bool:
    """Lock a file for this process; False if another one has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _nothing() -> None: ...
