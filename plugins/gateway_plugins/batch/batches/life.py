"""Takes one batch through its steps: validates, queues, cancels, finalizes.

After each step the database says what the next one is, so that another process can go on from there
if this one is killed.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gateway import Database, Storage
from gateway_plugins.batch.batches import rows, steps
from gateway_plugins.batch.batches.gentle import Gentle
from gateway_plugins.batch.batches.input.checking import Limits, Mistaken
from gateway_plugins.batch.batches.input.validating import Findings, validate
from gateway_plugins.batch.batches.loading import (
    CANCELLED_WITH_BATCH,
    Numbered,
    queue,
    slices_of,
)
from gateway_plugins.batch.batches.results import Written, write
from gateway_plugins.batch.batches.rows import Batch
from gateway_plugins.batch.files.files import Files
from gateway_plugins.batch.files.folder import Folder
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.changes import SLICE, End, Found, cancel_lines

log = logging.getLogger("gateway.batch")

Step = Callable[[Database, Batch], bool]
"""A change of a batch; True if the content of its input may be deleted."""


class Queue(msgspec.Struct, frozen=True):
    """What batches need of the queue of this process.

    `holder` returns its number. `wake`: items were queued. `canceled` is called with items that
    were canceled, whose calls it ends.
    """

    holder: Callable[[], int]
    wake: Callable[[], None]
    canceled: Callable[[Sequence[Found]], Awaitable[None]]


class Tools(msgspec.Struct, frozen=True):
    """What the steps use."""

    storage: Storage
    files: Files
    options: Options
    queue: Queue
    is_stopped: Callable[[], bool]

    @property
    def gentle(self) -> Gentle:
        """What a thread rests by while it works."""
        return Gentle(self.is_stopped)

    @property
    def folder(self) -> Folder:
        return self.files.folder

    def end(self) -> End:
        """Return the end of items that end now."""
        now = time.time()
        return End(now, now + self.options.keep_results)


class Life:
    """The steps of a batch that this process holds.

    They raise Lost if it does not hold the batch any more, Stopped, StorageError, and OSError.
    """

    def __init__(self, tools: Tools, batch: Batch) -> None:
        self.batch = batch
        self._tools = tools

    async def run(self) -> None:
        """Do what can be done now; the rest has to wait until items have ended."""
        while (step := self._next()) is not None:
            await step()

    def _next(self) -> Callable[[], Awaitable[None]] | None:
        batch = self.batch
        if batch.ended is not None:
            return None
        if not batch.total:
            return self._validate
        if batch.reserved:
            return self._load
        if batch.are_items_over:
            return self._finish
        return self._cancel if batch.cancelling is not None else None

    async def _validate(self) -> None:
        options = self._tools.options
        limits = Limits(options.max_lines, options.max_body_bytes, options.one_model)
        path, step = self._input, self._tools.gentle.step
        try:
            found = await asyncio.to_thread(validate, path, self.batch.endpoint, limits, step)
        except FileNotFoundError:
            found = Findings(0, None, [steps.INPUT_LOST])
        await self._change(partial(steps.validated, found=found))

    async def _load(self) -> None:
        """Queue all lines that are not yet."""
        try:
            await self._load_all()
        except (FileNotFoundError, Mistaken) as error:
            log.error("the input file of batch %s has changed: %s", self.batch.id, error)
        if self.batch.reserved:
            await self._change(steps.cut)

    async def _load_all(self) -> None:
        tools = self._tools
        most = tools.options.max_body_bytes
        slices = slices_of(self._input, self.batch, most, tools.gentle.step)
        while found := await asyncio.to_thread(_next_of, slices):
            self.batch, canceled = await tools.storage.write(
                partial(queue, batch=self.batch, lines=found, end=tools.end())
            )
            await tools.queue.canceled(canceled)
            tools.queue.wake()

    async def _cancel(self) -> None:
        """End all items that are queued or run, and the calls of the latter."""
        after: int | None = 0
        while after is not None:
            after = await self._cancel_after(after)
        await self._change(_unchanged)

    async def _cancel_after(self, line: int) -> int | None:
        """Cancel some lines after `line`; return the last of them, None if there are no more."""
        number, end = self.batch.number, self._tools.end()
        found = await self._tools.storage.write(
            lambda db: cancel_lines(db, number, line, CANCELLED_WITH_BATCH, end)
        )
        await self._tools.queue.canceled(found)
        return found[-1].line if len(found) == SLICE else None

    async def _finish(self) -> None:
        await self._change(steps.finalizing)
        written = await asyncio.to_thread(self._write_results)
        keep = self._tools.options.keep_files
        await self._change(partial(steps.finished, written=written, keep=keep))

    def _write_results(self) -> Written:
        folder, batch = self._tools.folder, self.batch
        assert batch.output_file is not None
        assert batch.error_file is not None
        output = folder.part(), folder.content(batch.output_file)
        errors = folder.part(), folder.content(batch.error_file)
        db = self._tools.storage.connect()
        try:
            written = write(db, batch.number, output, errors, self._tools.gentle.step)
            folder.sync()
            return written
        finally:
            db.close()

    @property
    def _input(self) -> Path:
        return self._tools.folder.content(self.batch.input_file)

    async def _change(self, step: Step) -> None:
        """Store what a step has changed, and learn what the batch is like now."""
        batch = self.batch

        def run(db: Database) -> tuple[bool, Batch | None]:
            return step(db, batch), rows.get(db, batch.number)

        is_unused, now = await self._tools.storage.write(run)
        if is_unused:
            self._tools.folder.delete([batch.input_file])
        if now is None:
            raise rows.Lost
        self.batch = now


def _next_of(slices: Iterator[Sequence[Numbered]]) -> Sequence[Numbered]:
    """Return the next slice, empty if there is none."""
    return next(slices, ())


def _unchanged(db: Database, batch: Batch) -> bool:
    rows.held(db, batch)
    return False
