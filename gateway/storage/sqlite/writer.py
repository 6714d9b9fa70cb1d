"""The single writer thread: stores groups of entries, each group in one transaction."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

import msgspec

from gateway.errors import StorageUnavailable
from gateway.storage.database import Database
from gateway.storage.sink import Entry, Group, Sink
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.faults import is_busy, is_damage, is_file_fault
from gateway.storage.sqlite.file import mark_damaged

T = TypeVar("T")

log = logging.getLogger("gateway.storage")


Done = Callable[[Any, BaseException | None], None]
"""Called in the event loop with the result, or with the exception raised."""


class Writer:
    """Runs tasks in order in its own thread, on its own connection; create it in the event loop.

    `connect` opens the file; it is called before each task until it succeeds, and again after a
    fault of the file.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._tasks: SimpleQueue[tuple[Callable[[Connection], Any], Done] | None] = SimpleQueue()
        self._db: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="gateway-writer", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[Connection], T], done: Done) -> None:
        """Run `task` with the connection, then call `done` with its result or exception."""
        self._tasks.put((task, done))

    async def close(self, seconds: float) -> None:
        """End the thread once its tasks are done; after `seconds`, abandon a thread that hangs."""
        self._tasks.put(None)
        await asyncio.wait([self._ended], timeout=seconds)
        if self._ended.done():
            self._thread.join()
            return
        log.error("the database does not answer; its connection is left open")
        self._connect = _abandoned
        if self._db is not None:
            self._db.abandoned = True

    def _attempt(self, task: Callable[[Connection], T], done: Done) -> None:
        try:
            if self._db is None:
                self._db = self._connect()
            result = task(self._db)
        except BaseException as error:  # noqa: BLE001  passed to `done`
            if is_file_fault(error) and not is_busy(error):
                self._disconnect(error)
            self._report(done, None, error)
        else:
            self._report(done, result, None)

    def _disconnect(self, error: BaseException) -> None:
        """Close the connection after a fault of the file: its cached state may be out of date."""
        if self._db is not None:
            if is_damage(error):
                mark_damaged(self._db.path)
            self._db.close()
            self._db = None

    def _report(self, done: Done, result: Any, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(done, result, error)
        except RuntimeError:  # the loop is closed: nothing waits for the result
            return

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            self._attempt(*task)
            del task  # else its objects would live until the next task arrives
        if self._db is not None:
            self._db.close()
        self._report(lambda _, __: self._ended.set_result(None), None, None)


def _abandoned() -> Connection:
    raise StorageUnavailable("the gateway is shut down")


class Tally(msgspec.Struct):
    """Counts of the entries of a group, by outcome."""

    committed: int = 0
    lost: int = 0


Batch = tuple[Sink, list[Any]]
"""The results of a sink's `prepare`, for all its entries of a group."""


def commit(db: Connection, group: Group, tally: Tally) -> None:
    """Store the group in one transaction; if that fails, store each entry in its own.

    Only an entry that cannot be stored is lost. Raises StorageUnavailable if the file is at fault:
    `group` then holds the entries that are not committed yet, and may be tried again.
    """
    batches = _prepared(db, group, tally)
    try:
        _transact(db, batches)
    except BaseException as error:  # noqa: BLE001  a sink may raise anything
        _undo(db, error)
        _commit_singly(db, group, tally)
    else:
        tally.committed += len(group)
        _notify_written(batches)


def _commit_singly(db: Connection, group: Group, tally: Tally) -> None:
    while group:
        batches: list[Batch] = [(group[0].sink, [group[0].rows])]
        try:
            _transact(db, batches)
        except BaseException as error:  # noqa: BLE001
            _undo(db, error)
            lose(group.pop(0), error, tally)
        else:
            tally.committed += 1
            del group[0]
            _notify_written(batches)


def _undo(db: Connection, error: BaseException) -> None:
    """Roll back; raises the error again if the file is at fault."""
    if db.in_transaction:
        db.execute("ROLLBACK")
    if is_file_fault(error):
        raise error
    db.check()  # "no such table" may mean that the file was replaced


def change(db: Connection, run: Callable[[Database], T]) -> T:
    """Run `run` in its own transaction, which is rolled back if it raises."""
    with db.lock:
        db.execute("BEGIN IMMEDIATE")
        try:
            result = run(db)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            db.check()
            raise
    db.check()
    return result


def _prepared(db: Connection, group: Group, tally: Tally) -> list[Batch]:
    """Prepare the entries, and return what to write; an entry that cannot be prepared is lost."""
    batches: dict[int, Batch] = {}  # by the sinks' identity: a sink need not be hashable
    for entry in group[:]:
        sink = entry.sink
        if not entry.prepared:
            try:
                entry.rows = sink.prepare(db, entry.item)
                entry.prepared = True
            except BaseException as error:  # noqa: BLE001
                _undo(db, error)
                group.remove(entry)
                lose(entry, error, tally)
                continue
        batch = batches.get(id(sink))
        if batch is None:
            batches[id(sink)] = sink, [entry.rows]
        else:
            batch[1].append(entry.rows)
    return list(batches.values())


def _transact(db: Connection, batches: Sequence[Batch]) -> None:
    with db.lock:
        db.execute("BEGIN IMMEDIATE")
        for sink, rows in batches:
            sink.write(db, rows)
        if db.abandoned:
            db.check()
        db.execute("COMMIT")
    db.check()  # a commit to a deleted file is lost


def _notify_written(batches: Sequence[Batch]) -> None:
    for sink, rows in batches:
        try:
            sink.written(rows)
        except BaseException:
            log.exception("%r failed to note what was stored", type(sink).__name__)


def lose(entry: Entry, error: BaseException, tally: Tally) -> None:
    """Count the entry as lost and call its sink's `lost`."""
    log.error("what a call left could not be stored and is lost", exc_info=error)
    tally.lost += 1
    notify_lost(entry, error)


def notify_lost(entry: Entry, error: BaseException) -> None:
    """Call the sink's `lost`; logs its exceptions and raises nothing."""
    reason = error if isinstance(error, Exception) else RuntimeError(repr(error))
    try:
        entry.sink.lost(entry.item, reason)
    except BaseException:
        log.exception("%r failed to note what was lost", type(entry.sink).__name__)
