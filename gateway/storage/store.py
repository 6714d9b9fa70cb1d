"""The embedded database of one gateway: stores records of calls, runs plugins' queries."""

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gateway import config
from gateway.cluster.peers import Peers, Topic
from gateway.config import MEMORY
from gateway.errors import StorageError, StorageUnavailable
from gateway.storage.commit_queue import LOCKED_RETRY_DELAY, CommitQueue, Health
from gateway.storage.database import Database, Migrations, OpenDatabase
from gateway.storage.sink import Group
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.faults import (
    FileGone,
    fault_text,
    is_busy,
    is_damage,
    is_file_fault,
)
from gateway.storage.sqlite.file import connect_read_only, open_for_writing, prepare_file
from gateway.storage.sqlite.file_in_use import FileInUse
from gateway.storage.sqlite.migrate import migrate
from gateway.storage.sqlite.readers import Readers
from gateway.storage.sqlite.write_lock import WriteLock
from gateway.storage.sqlite.writer import Writer, change, notify_lost

T = TypeVar("T")

log = logging.getLogger("gateway.storage")

FLUSH = Topic("storage", "flush")

LOOK_INTERVAL, LOOK_TIMEOUT = 1.0, 1.0
"""Seconds between two looks at a file that cannot be read, and the maximum of one."""

CLOSE_TIMEOUT = 10.0
"""Seconds to wait for the writer at shutdown."""


class Storage:
    """One SQLite file; used from the gateway's event loop only.

    Opens nothing if no plugin has `migrations`. Faults of the file never stop calls: their entries
    wait in a bounded backlog until the file can be written again. `path` is the path of the file;
    for `":memory:"` that of a temporary file, known after `open`. `peers` use the same file.
    """

    def __init__(
        self,
        settings: config.Config,
        migrations: Sequence[Migrations],
        peers: Peers | None = None,
    ) -> None:
        self.health = Health()
        self.path = Path(settings.storage.path)
        self._settings = settings.storage
        self._migrations = migrations
        self._peers = peers or Peers()
        self._peers.handle(FLUSH, self._flush_for_another)
        self._lock = WriteLock(self._peers.file("storage.turn"))
        self._in_use = FileInUse(self.path)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._writer: Writer | None = None
        self._queue: CommitQueue | None = None
        self._readers: Readers | None = None
        self._changes: set[asyncio.Future[Any]] = set()
        self._is_damaged = False
        self._next_look = 0.0

    async def open(self) -> None:
        """Open the file and create or update the tables; does nothing if open already.

        If the file cannot be written now, the storage is degraded and retries. Raises ConfigError
        if there can be no file at the path, and StorageError if a migration fails.
        """
        if not self._migrations or self._writer is not None:
            return
        if str(self.path) == MEMORY:
            self._temporary = tempfile.TemporaryDirectory(prefix="gateway-")
            self.path = Path(self._temporary.name, "memory")
        prepare_file(self.path)
        self._in_use = FileInUse(self.path)
        self._writer = Writer(self._open_for_writing)
        self._queue = CommitQueue(self._writer, self._settings, self.health)
        self._readers = Readers(self.path, self._in_use)
        try:
            await self.write(lambda _: None)
        except BaseException as error:
            if not is_file_fault(error):
                await self.close()
                raise
            self._queue.begin_degraded(error)

    def _open_for_writing(self) -> Connection:
        durability = self._settings.durability
        return open_for_writing(self.path, durability, self._migrations, self._lock, self._in_use)

    async def migrate(self, migrations: Sequence[Migrations]) -> None:
        """Apply these migrations too; they replace earlier ones of the same names.

        Raises StorageError if the file cannot be written, or a migration fails.
        """
        if not migrations:
            return
        before, closed = self._migrations, self._writer is None
        names = {one.name for one in migrations}
        self._migrations = [*(one for one in before if one.name not in names), *migrations]
        try:
            await self.open()
            await self.write(lambda db: migrate(db, migrations))
        except BaseException:
            self._migrations = before
            if closed:
                await self.close()
            raise

    async def close(self) -> None:
        """Store the waiting entries, as far as possible, and close the file.

        Takes little more than CLOSE_TIMEOUT seconds; entries not stored by then are lost.
        """
        writer, queue, readers = self._writer, self._queue, self._readers
        if writer is None or queue is None or readers is None:
            return
        self._writer = self._queue = self._readers = None
        ends = asyncio.get_running_loop().time() + CLOSE_TIMEOUT
        try:
            await queue.drain(CLOSE_TIMEOUT)
            await readers.close(_left(ends))
        finally:
            await writer.close(_left(ends))
            queue.end()
            self._end()
            self._lock.close()

    def _end(self) -> None:
        for change_ in self._changes:
            _settle(change_, None, StorageUnavailable("the gateway is shut down"))
        self.health.state, self.health.reason = "ok", ""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary, self.path = None, Path(MEMORY)

    async def commit(self, group: Group) -> None:
        """Store the entries of one call together; returns when they are committed.

        Returns before the commit if it takes longer than `storage.commit_timeout`, if the storage
        is degraded, if all entries are lazy (unless `durability` is `power`), or if `durability` is
        `none`. Raises nothing.
        """
        released = self.begin_commit(group)
        if released is not None:
            await released

    def begin_commit(self, group: Group) -> asyncio.Future[None] | None:
        """Do what `commit` does, and return what it waits for; None if it does not wait."""
        if self._queue is None:
            self._lose(group)
            return None
        return self._queue.add(group)

    def _lose(self, group: Group) -> None:
        log.error("%d entries are lost: the database is not open", len(group))
        self.health.lost += len(group)
        for entry in group:
            notify_lost(entry, StorageUnavailable("the database is not open"))

    async def write(self, run: Callable[[Database], T]) -> T:
        """Run a change in the writer's thread, in a transaction that is committed on return.

        If the file is locked, retries for `storage.commit_timeout` seconds; `run` may then be
        called again. Raises the exceptions of `run`, and StorageUnavailable if the file cannot be
        written.
        """
        return await self._retry_while_locked(lambda db: change(db, run))

    async def vacuum(self, pages: int) -> bool:
        """Return up to `pages` free pages to the file system; True if there may be more of them."""
        return await self._retry_while_locked(lambda db: db.vacuum(pages))

    async def read(self, query: Callable[[Database], T]) -> T:
        """Run a query in a reader thread. Raises its exceptions and StorageError.

        If the file was replaced, the writer opens the new one first, and creates its tables.
        """
        if self._readers is None:
            raise StorageUnavailable("the database is not open")
        try:
            try:
                result = await self._readers.run(query)
            except FileGone:
                await self._follow_file()
                result = await self._readers.run(query)
        except StorageError as error:
            self._note_unread(error)
            raise
        if self.health.unread and not self._is_damaged:
            self.health.unread = ""
        return result

    async def look(self) -> None:
        """Update `health.unread` if another file is at the path, or the file could not be read.

        Another process, or nobody, may have read it since. Raises nothing.
        """
        loop = asyncio.get_running_loop()
        if self._readers is None or loop.time() < self._next_look:
            return
        if self._in_use.is_there and not self.health.unread:
            return
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                await self.read(lambda db: list(db.select("SELECT count(*) FROM sqlite_schema")))
        except (StorageError, TimeoutError):
            self._next_look = loop.time() + LOOK_INTERVAL

    async def _follow_file(self) -> None:
        """Have the writer open the file that is at the path now."""
        with contextlib.suppress(FileGone):
            await self._in_writer(Connection.check)
        await self._in_writer(Connection.check)
        self._is_damaged = False

    def _note_unread(self, error: StorageError) -> None:
        """Report in `health` that the file is at fault, a damaged one until it is replaced."""
        if is_file_fault(error) and not is_busy(error):
            self.health.unread = fault_text(error)
            self._is_damaged = self._is_damaged or is_damage(error)

    async def flush(self) -> None:
        """Wait until all entries added so far are committed, in the other processes as well.

        Raises StorageUnavailable.
        """
        if self._queue is not None:
            await self._queue.flush()
            for reason in filter(None, await self._peers.request(FLUSH)):
                raise StorageUnavailable(reason.decode())

    async def _flush_for_another(self, _: bytes) -> bytes:
        """Flush for another process; return the reason if it fails, else an empty text."""
        try:
            if self._queue is not None:
                await self._queue.flush()
        except StorageUnavailable as error:
            return str(error).encode()
        return b""

    def connect(self) -> OpenDatabase:
        """Open the file for reading in the caller's own thread; the caller must close it.

        Raises StorageError.
        """
        self._in_use.check()
        return connect_read_only(self.path)

    async def _retry_while_locked(self, task: Callable[[Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.commit_timeout
        while True:
            try:
                return await self._in_writer(task)
            except StorageUnavailable as error:
                if not is_busy(error) or loop.time() > until:
                    raise
            await asyncio.sleep(LOCKED_RETRY_DELAY)

    async def _in_writer(self, task: Callable[[Connection], T]) -> T:
        if self._writer is None:
            raise StorageUnavailable("the database is not open")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._changes.add(future)
        future.add_done_callback(self._changes.discard)
        self._writer.submit(task, partial(_settle, future))
        return await future


def _left(ends: float) -> float:
    """Seconds left for a step of the shutdown; at least 1, so that a late step can end cleanly."""
    return max(ends - asyncio.get_running_loop().time(), 1.0)


def _settle(future: "asyncio.Future[T]", result: T, error: BaseException | None) -> None:
    if future.done():
        return
    if isinstance(error, StopIteration):  # a future cannot hold it
        error = RuntimeError("the change raised StopIteration")
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
