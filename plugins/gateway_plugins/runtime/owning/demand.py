"""What is wanted of each model: calls that wait or run, and items of the queue."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic

from gateway import Backlog, Host, StorageError, WorkQueue
from gateway_plugins.runtime.holding.holding import Holding, Ticket, is_work
from gateway_plugins.runtime.memory.known import Memory
from gateway_plugins.runtime.owning.activity import Activity
from gateway_plugins.runtime.policy.view import Demand

LOOK = 0.5
"""Seconds after which the queue is read again."""


class Wants:
    """Gathers the demand of all models for the policies of all runtimes.

    `is_ready` returns whether a model is on the disk: it is not loaded before. `renewed` is called
    with a model that has failed, and for which items were submitted since then.
    """

    def __init__(
        self,
        gateway: Host,
        holding: Holding,
        activity: Activity,
        memory: Memory,
        is_ready: Callable[[str], bool],
        renewed: Callable[[str], None],
    ) -> None:
        self._gateway = gateway
        self._holding = holding
        self._activity = activity
        self._memory = memory
        self._is_ready = is_ready
        self._renewed = renewed
        self._queue: WorkQueue | None = None
        self._backlog: Mapping[str, Backlog] = {}
        self._read_at = float("-inf")

    async def refresh(self) -> None:
        """Read the queue if that was not done just now; if it cannot be read, nothing changes."""
        now = monotonic()
        if now - self._read_at < LOOK:
            return
        self._read_at = now
        if self._queue is None:
            found = (hook.run(self._gateway) for hook in self._gateway.hooks("work_queue"))
            self._queue = next((one for one in found if one is not None), None)
        if self._queue is not None:
            with contextlib.suppress(StorageError):  # the storage reports it
                self._backlog = await self._queue.backlog()
                self._find_renewed()

    def _find_renewed(self) -> None:
        for model, backlog in self._backlog.items():
            failed_at = self._memory.failed_at(model)
            if backlog.oldest is not None and failed_at and backlog.oldest > failed_at:
                self._renewed(model)

    async def preempt(self, model: str) -> int:
        """End the calls of the model's items, which are queued again; return their number."""
        return 0 if self._queue is None else await self._queue.preempt(model)

    def running(self) -> Counter[str]:
        """Return how many realtime calls each worker has, by its id."""
        return Counter(
            call.attempts[-1].worker.id
            for call in self._gateway.calls_in_flight
            if not is_work(call) and call.attempts and call.attempts[-1].ended is None
        )

    def of(self, model: str, in_flight: int, *, elsewhere: bool) -> Demand:
        """Return the demand of a model; `in_flight`: realtime calls at the engine that it has."""
        tickets, now = self._holding.waiting(model), monotonic()
        realtime = [ticket for ticket in tickets if not ticket.is_work]
        work = [ticket for ticket in tickets if ticket.is_work]
        backlog = self._backlog.get(model, Backlog())
        arrivals, expected = self._activity.of(model), self._holding.expected(model)
        since = realtime[0].since if realtime else None
        return Demand(
            held=len(realtime) or int(expected is not None),
            held_since=expected if since is None else since,
            urgent=any(ticket.urgent for ticket in realtime),
            in_flight=in_flight,
            realtime_at=arrivals.latest,
            arrivals=arrivals.rate(now),
            queued=backlog.queued + len(work),
            running=backlog.running,
            queued_since=_oldest(backlog, work, now),
            priority=backlog.priority,
            barred_until=self._barred_until(model),
            load_time=self._memory.load_seconds(model),
            elsewhere=elsewhere,
        )

    def _barred_until(self, model: str) -> float:
        return self._memory.barred_until(model) if self._is_ready(model) else float("inf")


def _oldest(backlog: Backlog, work: list[Ticket], now: float) -> float | None:
    """Return since when the oldest waits, by `time.monotonic()`; None: nothing waits."""
    since = [ticket.since for ticket in work]
    if backlog.oldest is not None:
        since.append(now + backlog.oldest - time.time())
    return min(since, default=None)
