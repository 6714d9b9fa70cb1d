"""Claims items and dispatches a call for each, in one task of each process."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from gateway import (
    LINKED,
    Body,
    Call,
    CallerGone,
    CallError,
    Host,
    Principal,
    StateKey,
    StorageError,
)
from gateway_plugins.batch.options import Options
from gateway_plugins.batch.queue.changes import End, give_up
from gateway_plugins.batch.queue.claiming import Claiming, Claims
from gateway_plugins.batch.queue.items import (
    COMPLETED,
    QUEUED,
    Claimed,
    Ended,
    ItemError,
    Running,
)
from gateway_plugins.batch.queue.texts import unpack
from gateway_plugins.batch.running.caller import Keeping
from gateway_plugins.batch.running.pace import Pace
from gateway_plugins.batch.running.pauses import Pauses
from gateway_plugins.batch.running.refilling import Refilling
from gateway_plugins.batch.running.verdict import DeadlinePassed, Preempted, judge

log = logging.getLogger("gateway.batch")

LOOK = 0.5
"""Seconds after which the queue is looked at again: another process may have added items."""

FAILED = 1.0
"""Seconds until the next try if the database could not be used."""

MAX_CLAIM = 64
"""Items that one transaction claims."""

OF_ONE_REQUEST = ("completion", "chat_completion", "job")
"""Kinds of items whose call is part of the trace of its submitter; others link to that trace."""

CLOSING = 5.0
"""Seconds that the ends of calls may take to be stored when the gateway closes."""


UNREADABLE = (ValueError, msgspec.MsgspecError)
"""What tells that the row of an item is damaged."""


class Work(msgspec.Struct, eq=False):
    """An item in flight, the caller of its call, and how the call ended once it is over."""

    item: Claimed
    kept: Keeping
    end: Ended | None = None


WORK: StateKey[Work] = StateKey("batch")
"""Marks the calls of items."""


class Runner:
    """`ended` is called with each item whose call is over, after what it left was committed."""

    def __init__(
        self,
        gateway: Host,
        options: Options,
        claiming: Claiming,
        ended: Callable[[Claimed], None],
    ) -> None:
        self._calls: dict[str, Call] = {}
        self.pace = Pace(gateway.workers, options, gateway.peers.count, self._calls.values)
        self._options = options
        self._pauses = Pauses(options)
        self._lanes: Counter[int] = Counter()
        self._gateway = gateway
        self._claiming = claiming
        self._ended = ended
        self.refilling = Refilling(claiming, self._refill)
        self._kept: dict[int, str] = {}  # places of items that have ended, with their models
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._tasks)

    def running(self) -> set[Running]:
        """Return the attempts that run now."""
        return {call.state[WORK].item.running for call in self._calls.values()}

    def wake(self) -> None:
        """Look at the queue at once."""
        self._wanted.set()

    def cancel(self, item_id: str, error: CallError | CallerGone) -> bool:
        """End the call of an item; False if it does not run in this process."""
        call = self._calls.get(item_id)
        if call is not None:
            call.cancel(error)
        return call is not None

    def preempt(self, model: str | None = None) -> int:
        """End the calls of all items, or of those for `model`, which are queued again.

        Returns how many there were. They run again as soon as there is room for them.
        """
        calls = [one for one in self._calls.values() if model is None or one.model == model]
        for call in calls:
            call.cancel(Preempted("the item makes room for other work"))
        return len(calls)

    def refilled(self, end: Ended) -> Ended:
        """Return the end of an item; another gets its place, if all is well and there is room."""
        item, goes_on = end.item, not (self._stopped or self._gateway.draining)
        if end.state != COMPLETED or not goes_on or self.pace.room_of(item.model) < 0:
            return end
        self._kept[item.number] = item.model
        self.refilling.lanes = self._pauses.rooms(self._lanes)
        return replace(end, refills=self.pace.beside(item.model))

    def _refill(self, items: Sequence[Claimed], numbers: Sequence[int]) -> None:
        for number in numbers:
            self.pace.end(self._kept.pop(number))
        for item in items:
            self._begin_call(item)
        if len(items) < len(numbers):
            self.wake()

    async def run(self) -> None:
        """Claim and run items until cancelled, or until the gateway drains."""
        while not (self._stopped or self._gateway.draining):
            self._wanted.clear()
            try:
                pause = await self._step()
            except Exception:
                log.exception("no item can be claimed now")
                pause = FAILED
            if pause > 0:
                try:
                    async with asyncio.timeout(min(pause, self._pauses.soonest())):
                        await self._wanted.wait()
                except TimeoutError:
                    pass

    async def _step(self) -> float:
        """Claim what fits; return the seconds until the queue has to be looked at again."""
        rooms, others, every = self.pace.rooms()
        lanes = self._pauses.rooms(self._lanes)
        most = min(every, MAX_CLAIM)
        if most <= 0:
            return LOOK
        try:
            claims = await self._gateway.storage.write(
                lambda db: self._claiming.claim(db, rooms, others, time.time(), most, lanes)
            )
        except StorageError as error:
            log.warning("no item can be claimed now: %s", error)
            return FAILED
        return self._begin(claims, most)

    def _begin(self, claims: Claims, most: int) -> float:
        for item in claims.items:
            self._begin_call(item)
        if len(claims.items) == most:
            return 0.0 if most == MAX_CLAIM else LOOK
        due = LOOK if claims.next_due is None else claims.next_due - time.time()
        return min(max(due, 0.01), LOOK)

    def _begin_call(self, item: Claimed) -> None:
        work = Work(item, Keeping(self._gateway.config.server_limits.max_body_bytes))
        try:
            call = self._call(work)
        except UNREADABLE as error:
            self._keep(self._refuse(item, error))
            return
        self._calls[item.id] = call
        self.pace.begin(item.model)
        self._lanes[item.lane] += 1
        self._keep(self._run(work, call))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Work, call: Call) -> None:
        try:
            await self._dispatch(work.item, call)
        except Exception:
            log.exception("the call of item %s ended badly", work.item.id)
        finally:
            kept = self._free(work)
        self._ended(work.item)
        if not kept or self.pace.room_of(work.item.model) > 0:
            self.wake()

    async def _dispatch(self, item: Claimed, call: Call) -> None:
        left = item.deadline - time.time()
        late = DeadlinePassed("the item was not done by its deadline")
        timer = asyncio.get_running_loop().call_later(max(left, 0.0), call.cancel, late)
        if left <= 0:
            call.cancel(late)
        try:
            await self._gateway.dispatch(call)
        finally:
            timer.cancel()
            if self._calls.get(item.id) is call:
                del self._calls[item.id]

    async def _refuse(self, item: Claimed, error: Exception) -> None:
        """End an item of which no call can be made."""
        log.error("item %s is damaged in the database: %s", item.id, error)
        now = time.time()
        end = End(now, now + self._options.keep_results)
        reason = ItemError("unreadable", str(error))
        with contextlib.suppress(StorageError):
            await self._gateway.storage.write(
                lambda db: give_up(db, [item.running], reason, 0, end)
            )
        self._ended(item)
        self.wake()

    def _free(self, work: Work) -> bool:
        """Give the item's place back, unless another gets it; return whether another does.

        Its lane rests if no worker has run the item.
        """
        lane, end = work.item.lane, work.end
        kept = end is not None and end.refills is not None
        if not kept:
            self.pace.end(work.item.model)
        self._lanes[lane] -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]
        if end is None or end.state != QUEUED or end.counts:
            self._pauses.went_well(lane)
        elif end.due > end.at:
            self._pauses.refused(lane, end.due - end.at)
        return kept

    def _call(self, work: Work) -> Call:
        item = work.item
        headers = [(b"content-type", b"application/json"), (b"x-request-id", item.id.encode())]
        if item.batch is not None:
            headers.append((b"x-session-id", b"batch-%d" % item.batch))
        if item.traceparent is not None and item.kind in OF_ONE_REQUEST:
            headers.append((b"traceparent", item.traceparent.encode()))
        body = Body(unpack(item.body))
        body.kernel = self._gateway.kernel
        call = Call(
            work.kept,
            method="POST",
            path=item.path,
            headers=headers,
            body=body,
            principal=None if item.principal is None else _principal(item.principal),
            source="eval" if item.kind == "evaluation" else "batch",
            internal=True,
            runs_again=self._runs_again,
        )
        call.count_tokens()
        call.state[WORK] = work
        if item.traceparent is not None and item.kind not in OF_ONE_REQUEST:
            call.state[LINKED] = item.traceparent
        return call

    def _runs_again(self, call: Call) -> bool:
        """Judge the call of an item; return whether the item runs again in another call."""
        work = call.state[WORK]
        work.end = judge(call, work.kept, work.item, self._options)
        # The caller of such a call goes only if its item is canceled.
        return work.end.state == QUEUED and not call.outcome.caller_gone

    async def close(self) -> None:
        """End the calls that still run, and wait for them; their items are queued again."""
        self._stopped = True
        self.preempt()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


@lru_cache(maxsize=1_024)
def _principal(content: str) -> Principal:
    return msgspec.json.decode(content, type=Principal)
