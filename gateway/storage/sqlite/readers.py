"""Reader threads, each with its own connection."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any, TypeVar

from gateway.errors import StorageError, StorageUnavailable
from gateway.storage.database import Database
from gateway.storage.sqlite.connection import Connection
from gateway.storage.sqlite.faults import FileGone, is_damage, is_file_fault
from gateway.storage.sqlite.file import connect_read_only, mark_damaged
from gateway.storage.sqlite.file_in_use import FileInUse

T = TypeVar("T")

log = logging.getLogger("gateway.storage")

READERS = 4

_INTERRUPT_INTERVAL = 0.02
"""Seconds until queries are interrupted again: a query may have been between two statements."""


class Readers:
    """Runs queries in `READERS` threads until it is closed."""

    def __init__(self, path: Path, in_use: FileInUse) -> None:
        self._path = path
        self._in_use = in_use
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="gateway-reader")
        self._running: set[Future[Any]] = set()
        self._connections: list[Connection] = []
        self._local = local()
        self._closed = False

    async def run(self, query: Callable[[Database], T]) -> T:
        """Run `query` and return its result.

        Raises its exception; StorageUnavailable if closed; FileGone if the file was replaced, until
        the writer has opened the new one.
        """
        if self._closed:
            raise StorageUnavailable("the database is not open")
        job = self._threads.submit(self._query, query)
        self._running.add(job)
        job.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(job)

    async def close(self, seconds: float) -> None:
        """Interrupt running queries; after `seconds`, threads that have not ended are abandoned."""
        self._closed = True
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while self._running and loop.time() < ends:
            for db in list(self._connections):
                db.interrupt()
            await asyncio.sleep(_INTERRUPT_INTERVAL)
        if self._running:
            log.error("a query does not end; its connection is left open")
        self._threads.shutdown(wait=not self._running)
        if not self._running:
            for db in self._connections:
                db.close()

    def _query(self, query: Callable[[Database], T]) -> T:
        if self._closed:
            raise StorageUnavailable("the database is not open")
        try:
            return query(self._connection())
        except StopIteration as error:  # a future cannot hold it
            raise RuntimeError("the query raised StopIteration") from error
        except StorageError as error:
            if is_file_fault(error):
                self._drop(error)
            raise

    def _connection(self) -> Connection:
        db: Connection | None = getattr(self._local, "db", None)
        if db is not None:
            try:
                db.check()
            except FileGone as error:
                self._drop(error)
                db = None
        if db is None:
            self._in_use.check()
            db = self._local.db = connect_read_only(self._path)
            self._connections.append(db)
        return db

    def _drop(self, error: StorageError) -> None:
        if is_damage(error):
            mark_damaged(self._path)
        db: Connection | None = getattr(self._local, "db", None)
        if db is not None:
            self._local.db = None
            self._connections.remove(db)
            db.close()
