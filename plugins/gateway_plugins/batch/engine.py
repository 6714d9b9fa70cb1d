"""The engine behind all doors: queues items, runs them, and tells who waits for them."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from gateway import (
    Attempt,
    Call,
    CallerGone,
    CallError,
    Database,
    Host,
    Outcome,
    Sample,
    Storage,
    Topic,
)
from gateway_plugins.batch.batches.batches import Batches
from gateway_plugins.batch.batches.life import Queue
from gateway_plugins.batch.depth import Depth
from gateway_plugins.batch.files.files import Files
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue import changes, reading
from gateway_plugins.batch.queue.changes import Found
from gateway_plugins.batch.queue.claiming import Claiming
from gateway_plugins.batch.queue.holders import LEFT, Holder, Others
from gateway_plugins.batch.queue.items import RUNNING, Claimed, Item, NewItem, Owner, Running
from gateway_plugins.batch.queue.ordering import Order
from gateway_plugins.batch.queue.settling import Settling, Written
from gateway_plugins.batch.queue.submission import (
    Room,
    Submission,
    remember,
    repeated,
    submit,
)
from gateway_plugins.batch.report import Tally
from gateway_plugins.batch.running.engine_queues import EngineQueues
from gateway_plugins.batch.running.runner import WORK, Runner
from gateway_plugins.batch.running.upkeep import Telling, Upkeep
from gateway_plugins.batch.uploads.uploads import Uploads

REPEAT = 0.5
"""Seconds after which a waiting request looks whether another process has ended its item."""

CANCELED = Topic("batch", "canceled items")
PREEMPTED = Topic("batch", "preempted items")

ITEM_SIZE = 1_000
"""Approximate bytes of an ended item in memory, beside its response."""


class Canceled(CallerGone):
    """Ends the call of an item that was canceled."""


class Engine:
    """The queue of one process, with the files and the batches that are made of it."""

    def __init__(self, gateway: Host, options: Options, tally: Tally) -> None:
        self.options = options
        self.tally = tally
        self._gateway = gateway
        self._storage: Storage = gateway.storage
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        path = None if gateway.config.storage.in_memory else gateway.storage.path
        self.files = Files(gateway.storage, options, _folder(gateway, options))
        self.uploads = Uploads(gateway.storage, self.files)
        holder = Holder(path)
        order = Order(options.age_step, options.max_wait, options.max_pause)
        self.depth = Depth(gateway.storage, gateway.workers)
        self.runner = Runner(gateway, options, Claiming(order, holder), self._call_ended)
        path_of_metrics = options.engine_metrics
        self._queues = EngineQueues(self.runner.pace, path_of_metrics) if path_of_metrics else None
        self._settling = Settling(self._settled, self.runner.refilling)
        workers = gateway.workers
        telling = Telling(
            in_hand=self._in_hand,
            freed=self._freed,
            expired=partial(self._given_up, "expired"),
            dropped=partial(self._given_up, "error"),
            reasons=lambda: workers.load_failures(),
            unloadable=self._unloadable,
        )
        self._upkeep = Upkeep(
            gateway.storage, holder, Others(path, options.lease), options, telling
        )
        self._peers = gateway.peers
        self._peers.handle(CANCELED, self._end_calls_for_another)
        self._peers.handle(PREEMPTED, self._preempt_for_another)
        queue = Queue(lambda: holder.number, self.runner.wake, self._canceled)
        self.batches = Batches(gateway.storage, self.files, options, queue)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run items between entry and exit. Raises ConfigError."""
        async with self.files.running():
            await self._upkeep.begin()
            async with self._running():
                yield

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        parts = [self.runner.run(), self._upkeep.run(), self.depth.run()]
        if self._queues is not None:
            parts.append(self._queues.run())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            async with self.batches.running():
                yield
        finally:
            for task in tasks:
                task.cancel()
            await self.runner.close()
            await self._upkeep.end()

    async def submit(
        self, owner: Owner, items: Sequence[NewItem], submission: Submission | None = None
    ) -> str:
        """Queue items; return the id of the first.

        If `submission` repeats an earlier one, nothing is queued, and the id is the earlier one's.
        Raises TooManyRequests if there is no room, and Conflict if the earlier one was another
        request.
        """
        options = self.options
        room = Room(options.max_queued, options.max_queued_per_key)

        def run(db: Database) -> str:
            known = None if submission is None else repeated(db, submission)
            if known is not None:
                if not known[1]:
                    raise Conflict("this Idempotency-Key was used for another request")
                return known[0]
            submit(db, owner, items, room)
            if submission is not None:
                remember(db, submission, items[0].id)
            return items[0].id

        item_id = await self._storage.write(run)
        self.runner.wake()
        return item_id

    async def find(self, item_id: str, owner: str | None) -> Item | None:
        """Return the item; None if there is none, or not of this owner. `owner` None: anybody's."""
        return await self._storage.read(lambda db: reading.item_of(db, item_id, owner))

    async def wait(self, item_id: str, owner: str | None, seconds: float) -> Item | None:
        """Return the item as soon as it is over, or as it is after `seconds`.

        Returns early if the gateway drains: a shutdown waits for no request that only waits.
        """
        ends = time.monotonic() + seconds
        event = asyncio.Event()
        self._waiting[item_id].add(event)
        try:
            while True:
                item = await self.find(item_id, owner)
                left = ends - time.monotonic()
                if item is None or item.is_over or left <= 0 or self._gateway.draining:
                    return item
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, REPEAT)):
                        await event.wait()
        finally:
            self._waiting[item_id].discard(event)
            if not self._waiting[item_id]:
                del self._waiting[item_id]

    async def cancel(self, item_id: str) -> bool:
        """Cancel an item, and end its call; False if it is over already."""
        now = time.time()
        end = changes.End(now, now + self.options.keep_results)
        found = await self._storage.write(lambda db: changes.cancel(db, item_id, end))
        await self._canceled(() if found is None else (found,))
        if found is not None and found.batch is not None:
            self.batches.changed()
        return found is not None

    async def requeue(self, item_id: str) -> bool:
        """Queue a failed or canceled item again, as if it had not been tried; False: it is none.

        Lines of batches are none: their results are in the batch's files.
        """
        deadline = time.time() + self.options.deadline
        found = await self._storage.write(lambda db: changes.requeue(db, item_id, deadline))
        self._requeued(found is not None)
        return found is not None

    async def requeue_failed(self, model: str | None, owner: str | None) -> int:
        """Queue all failed items again, of one model or owner if it is given; return how many.

        What fails again meanwhile is left. Each slice is a transaction of its own.
        """
        now, done = time.time(), 0
        which, deadline = changes.Failed(model, owner, now), now + self.options.deadline

        def run(db: Database) -> int:
            return len(changes.requeue_failed(db, which, deadline, changes.SLICE))

        while count := await self._storage.write(run):
            self._requeued(count)
            done += count
        return done

    def _requeued(self, items: int) -> None:
        if items:
            self.tally.requeued(changes.REQUEUED, items)
            self.runner.wake()

    async def _canceled(self, found: Sequence[Found]) -> None:
        """End the calls of canceled items, in whichever process they run."""
        for one in found:
            self.tally.ended("canceled", one.path)
            self._tell(one.id)
        running = [one.id for one in found if one.state == RUNNING]
        elsewhere = [item_id for item_id in running if not self._end_call(item_id)]
        if elsewhere:
            await self._peers.request(CANCELED, msgspec.msgpack.encode(elsewhere))

    async def _end_calls_for_another(self, content: bytes) -> bytes:
        for item_id in msgspec.msgpack.decode(content, type=list[str]):
            self._end_call(item_id)
        return b""

    async def preempt(self, model: str) -> int:
        """End the calls of all items of the model; return how many ran in this process."""
        ended = self.runner.preempt(model)
        await self._peers.request(PREEMPTED, model.encode())
        return ended

    async def _preempt_for_another(self, content: bytes) -> bytes:
        self.runner.preempt(content.decode())
        return b""

    def _end_call(self, item_id: str) -> bool:
        return self.runner.cancel(item_id, Canceled("the item was canceled"))

    def samples(self) -> Iterator[Sample]:
        """Yield what the queue holds now, and how much of it this process may run at a time."""
        yield from self.depth.samples()
        help_ = "Calls that the worker may have in flight before items are held back."
        for worker, size in self.runner.pace.windows().items():
            labels = {"worker": worker}
            yield Sample("gateway_batch_window", "gauge", size, help_, labels, "sum")

    def attempt_finished(self, call: Call, attempt: Attempt) -> None:
        """Learn from an attempt how many items the workers can take."""
        self.runner.pace.attempt_ended(call, attempt, is_item=WORK in call.state)

    def call_finished(self, call: Call, outcome: Outcome) -> None:
        """Store how a call for an item ended, in the transaction of the call."""
        work = call.state.get(WORK)
        if work is None or work.end is None:
            return
        work.end = end = self.runner.refilled(work.end)
        size = ITEM_SIZE + len(end.answer or b"")
        self._settling.expect(work.item)
        call.store(self._settling, end, size)

    def _settled(self, rows: Sequence[Written]) -> None:
        """Count what was committed; called in the writer's thread."""
        for row in rows:
            if row.taken:
                self.tally.settled(row.end)
            else:
                self.tally.dropped(row.end)

    def _call_ended(self, item: Claimed) -> None:
        self._tell(item.id)
        if item.batch is not None:
            self.batches.changed()

    def _in_hand(self) -> set[Running]:
        """Return the attempts that run, or whose ends wait for their commit."""
        return self.runner.running() | self._settling.waiting

    def _freed(self, items: int) -> None:
        self.tally.requeued(LEFT.code, items)
        self.runner.wake()

    def _unloadable(self) -> dict[str, tuple[str, float]]:
        """Return why models cannot be loaded that no worker has either, and since when."""
        workers = self._gateway.workers
        return {
            model: known
            for model, known in workers.unloadable().items()
            if not workers.serving(model).all
        }

    def _given_up(self, status: str, found: list[Found]) -> None:
        for one in found:
            self.tally.ended(status, one.path)
            self._tell(one.id)
        if any(one.batch is not None for one in found):
            self.batches.changed()

    def _tell(self, item_id: str) -> None:
        for event in self._waiting.get(item_id, ()):
            event.set()


class Conflict(CallError):
    """The request contradicts what is stored."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


def _folder(gateway: Host, options: Options) -> Path | None:
    """Return the folder of files; None: a temporary one, because the database is in memory."""
    if options.files is not None:
        return Path(options.files)
    path = gateway.storage.path
    return None if gateway.config.storage.in_memory else path.with_name(f"{path.name}-files")
