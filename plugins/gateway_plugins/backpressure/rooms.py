"""Room of the workers, less the slots promised to calls that waited for them."""

import math
from collections.abc import Sequence

from gateway import Worker, Workers
from gateway_plugins.backpressure.order import Ticket


class Promise:
    """A slot that a ticket is about to take: of `worker`, or of all workers together (None).

    The promise ends when an attempt begins, as the slot then counts as used.
    """

    __slots__ = ("attempts", "worker")

    def __init__(self, worker: Worker | None, attempts: int) -> None:
        self.worker = worker
        self.attempts = attempts


class Rooms:
    """The room of one gateway's workers. The core takes and frees slots; this class never does."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._promises: dict[Ticket, Promise] = {}
        self._awake: set[Ticket] = set()
        self._held: dict[Worker, int] = {}
        self._seen: Sequence[Worker] = ()
        self._spare = 0.0

    @property
    def promised(self) -> int:
        """Number of slots promised and not yet taken."""
        self._settle()
        return len(self._promises)

    def look_again(self) -> None:
        """Drop the cached room, as the limits or the workers have changed."""
        self._spare = 0.0

    def of(self, worker: Worker) -> float:
        """Free slots of a worker; inf if the worker has no limit."""
        slots = worker.slots
        if slots.limit is None:
            return math.inf
        return slots.limit - slots.used - self._held.get(worker, 0)

    def overall(self) -> float:
        """Free slots of all workers together; inf if there is no overall limit."""
        self._settle()
        slots = self._workers.slots
        if slots.limit is None:
            return math.inf
        return slots.limit - slots.used - len(self._promises)

    def free(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Return the workers with room; if all have room, the given sequence itself.

        If the smallest room is n, no worker is full before n more calls have passed, so most calls
        check no worker: a choice among 256 costs on average as much as a choice among two.
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
        """Return those of `workers` that the promise allows; none if it cannot be kept."""
        if promise.attempts != len(ticket.call.attempts):
            return []
        self._awake.add(ticket)
        if promise.worker is None:
            return [one for one in workers if self.of(one) > 0 and not one.slots.full]
        return [one for one in workers if one is promise.worker and not one.slots.full]

    def release(self, ticket: Ticket) -> Promise | None:
        """Take back the ticket's promise and return it; None if there is none."""
        self._awake.discard(ticket)
        promise = self._promises.pop(ticket, None)
        if promise is not None and promise.worker is not None:
            self._held[promise.worker] -= 1
            if not self._held[promise.worker]:
                del self._held[promise.worker]
        return promise

    def _settle(self) -> None:
        """Forget promises that have become attempts.

        Nothing waits between the slot and the beginning of the attempt.
        """
        if not self._awake:
            return
        for ticket in tuple(self._awake):
            if len(ticket.call.attempts) != self._promises[ticket].attempts:
                self.release(ticket)
