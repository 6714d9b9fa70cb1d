"""How much room the workers have, less what was promised to those who waited for it."""

import math
from collections.abc import Sequence

from gateway import Worker, Workers
from gateway_plugins.backpressure.order import Ticket


class Promise:
    """A slot that a ticket is about to take: one of `worker`, or of all workers together (None).

    It is kept by the beginning of an attempt, and then the slot counts as used.
    """

    __slots__ = ("attempts", "worker")

    def __init__(self, worker: Worker | None, attempts: int) -> None:
        self.worker = worker
        self.attempts = attempts


class Rooms:
    """The room of one gateway's workers. Slots are taken and given by the core, never here."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._promises: dict[Ticket, Promise] = {}
        self._awake: set[Ticket] = set()
        self._held: dict[Worker, int] = {}
        self._seen: Sequence[Worker] = ()
        self._spare = 0.0

    @property
    def promised(self) -> int:
        """How many slots are promised and not yet taken."""
        self._settle()
        return len(self._promises)

    def look_again(self) -> None:
        """The limits, or the workers, are not what they were."""
        self._spare = 0.0

    def of(self, worker: Worker) -> float:
        """Infinite where the worker has no limit."""
        slots = worker.slots
        if slots.limit is None:
            return math.inf
        return slots.limit - slots.used - self._held.get(worker, 0)

    def overall(self) -> float:
        """Of all workers together."""
        self._settle()
        slots = self._workers.slots
        if slots.limit is None:
            return math.inf
        return slots.limit - slots.used - len(self._promises)

    def free(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Those with room; while all have it, the very sequence that was given.

        Where the least room of all is n, none of them is full before n calls have gone by, so that
        many look at no worker: a choice among 256 costs on average what one among two does.
        """
        if workers is self._seen and self._spare > 0 and not self._promises:
            self._spare -= 1
            return workers
        overall = self.overall()
        rooms = [self.of(worker) for worker in workers] if overall > 0 else []
        least = min(overall, min(rooms, default=0.0))
        self._seen, self._spare = workers, least - 1
        if least > 0:
            return workers
        return [worker for worker, room in zip(workers, rooms, strict=False) if room > 0]

    def promised_to(self, ticket: Ticket) -> Promise | None:
        return self._promises.get(ticket)

    def promise(self, ticket: Ticket, worker: Worker | None) -> None:
        self._promises[ticket] = Promise(worker, len(ticket.call.attempts))
        if worker is not None:
            self._held[worker] = self._held.get(worker, 0) + 1
        self._spare = 0.0

    def kept(self, ticket: Ticket, promise: Promise, workers: Sequence[Worker]) -> list[Worker]:
        """What the ticket may take of `workers` by its promise; none: it cannot be kept."""
        if promise.attempts != len(ticket.call.attempts):
            return []
        self._awake.add(ticket)
        if promise.worker is None:
            return [one for one in workers if self.of(one) > 0 and not one.slots.full]
        return [one for one in workers if one is promise.worker and not one.slots.full]

    def release(self, ticket: Ticket) -> Promise | None:
        """Take back what it was promised, if anything."""
        self._awake.discard(ticket)
        promise = self._promises.pop(ticket, None)
        if promise is not None and promise.worker is not None:
            self._held[promise.worker] -= 1
            if not self._held[promise.worker]:
                del self._held[promise.worker]
        return promise

    def _settle(self) -> None:
        """Forget what has become an attempt: nothing waits between the slot and its beginning."""
        if not self._awake:
            return
        for ticket in tuple(self._awake):
            if len(ticket.call.attempts) != self._promises[ticket].attempts:
                self.release(ticket)
