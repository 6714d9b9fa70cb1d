"""The batches of callers: created, found, cancelled, and worked on."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator

import msgspec

from gateway import BadRequest, Database, NotFound, Storage
from gateway_plugins.batch.batches import rows
from gateway_plugins.batch.batches.conductor import Conductor
from gateway_plugins.batch.batches.creating import NewBatch
from gateway_plugins.batch.batches.input import lines
from gateway_plugins.batch.batches.life import Queue
from gateway_plugins.batch.batches.rows import Batch
from gateway_plugins.batch.files import rows as file_rows
from gateway_plugins.batch.files.files import BATCH, Files
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.items import Owner
from gateway_plugins.batch.queue.submission import Room, principal_number

REPEATED = 600.0
"""Seconds within which a request that a client repeats creates no second batch."""

HOUR = 3_600.0


class Batches:
    """The batches, from the point of view of one process."""

    def __init__(self, storage: Storage, files: Files, options: Options, queue: Queue) -> None:
        self._storage = storage
        self._files = files
        self._room = Room(options.max_queued, options.max_queued_per_key)
        self._max_lines = options.max_lines
        self._conductor = Conductor(storage, files, options, queue)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work on batches between entry and exit."""
        task = asyncio.create_task(self._conductor.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def changed(self) -> None:
        """Look whether a batch is done: items of some have ended."""
        self._conductor.wake()

    async def create(self, owner: Owner, new: Batch, seen_by: str | None, is_repeat: bool) -> Batch:
        """Create the batch `new` for a file that `seen_by` (None: everybody) may see.

        If `is_repeat`, returns the batch that the same request has created of late, if there is
        one. Raises NotFound if there is no such file, BadRequest, and TooManyRequests if the queue
        has no room for its lines.
        """
        digest = new.digest or b""
        new.reserved = await self._count(new.input_file, seen_by)

        def run(db: Database) -> Batch:
            earlier = rows.repeated(db, owner.id, digest, new.created - REPEATED)
            if is_repeat and earlier is not None:
                return earlier
            self._add(db, owner, new, seen_by)
            return new

        batch = await self._storage.write(run)
        self._conductor.wake()
        return batch

    async def _count(self, file_id: str, seen_by: str | None) -> int:
        """Return how many lines of a file may be queued."""
        if await self._files.find(file_id, seen_by) is None:
            return 0
        path, loop = self._files.folder.content(file_id), asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._files.threads, lines.count, path)
        except OSError:
            return 0  # its validation tells
        return min(found, self._max_lines)

    def _add(self, db: Database, owner: Owner, new: Batch, seen_by: str | None) -> None:
        file = file_rows.find(db, new.input_file, seen_by)
        if file is None:
            raise NotFound(f"there is no file `{new.input_file[:100]}`", param="input_file_id")
        if file.purpose != BATCH:
            message = f"the purpose of the file is `{file.purpose}`, and has to be `{BATCH}`"
            raise BadRequest(message, param="input_file_id")
        self._room.check(db, owner.id, new.reserved)
        new.principal = principal_number(db, owner)
        file_rows.hold(db, new.input_file)
        rows.add(db, new)

    async def find(self, batch_id: str, seen_by: str | None) -> Batch:
        """Return a batch. Raises NotFound."""
        return _found(await self._storage.read(lambda db: rows.find(db, batch_id, seen_by)))

    async def page(self, seen_by: str | None, after: str | None, limit: int) -> list[Batch]:
        """Return the newest batches that are older than the one of the id `after`.

        Raises NotFound if there is none of this id.
        """

        def run(db: Database) -> list[Batch]:
            last = None if after is None else _found(rows.find(db, after, seen_by)).number
            return rows.newest(db, seen_by, last, limit)

        return await self._storage.read(run)

    async def cancel(self, batch_id: str, seen_by: str | None) -> Batch:
        """Begin to cancel a batch that may be cancelled; return it as it is then.

        Raises NotFound.
        """

        def run(db: Database) -> Batch:
            batch = _found(rows.find(db, batch_id, seen_by))
            rows.cancel(db, batch.number, time.time())
            return _found(rows.get(db, batch.number))

        batch = await self._storage.write(run)
        self._conductor.wake()
        return batch


def new_batch(owner: Owner, asked: NewBatch, digest: bytes, traceparent: str | None) -> Batch:
    """Return the batch that the request asks for. Raises BadRequest."""
    asked.check_metadata()
    now, kept = time.time(), asked.output_expires_after
    text = None if asked.metadata is None else msgspec.json.encode(asked.metadata).decode()
    return Batch(
        id=f"batch_{secrets.token_hex(12)}",
        owner=owner.id,
        principal=None,
        endpoint=asked.endpoint,
        input_file=asked.input_file_id,
        hours=asked.hours,
        digest=digest,
        metadata=text,
        priority=asked.priority,
        output_expires=None if kept is None else kept.seconds,
        created=now,
        deadline=now + asked.hours * HOUR,
        traceparent=traceparent,
    )


def _found(batch: Batch | None) -> Batch:
    if batch is None:
        raise NotFound("there is no batch of this id", param="batch_id")
    return batch
